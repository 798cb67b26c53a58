// ddit_ext._core: the C++ scheduler for Python. Free of torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "ddit_ext/patch_scheduler.h"

namespace py = pybind11;

namespace {

using Scores = std::vector<std::vector<double>>;

// Nested lists, or anything that turns into them: a tensor, a NumPy array. None is no signal.
Scores to_scores(const py::object& scores) {
  if (scores.is_none()) return {};
  const py::object nested = py::hasattr(scores, "tolist") ? scores.attr("tolist")() : scores;
  try {
    return nested.cast<Scores>();
  } catch (const py::cast_error&) {
    throw py::type_error("PatchScheduler: scores must be numbers as scores[sample][scale], got " +
                         py::repr(scores).cast<std::string>());
  }
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ scheduler of ddit_ext.";
  using ddit::PatchScheduler;

  py::class_<PatchScheduler>(module, "PatchScheduler", R"(Which patch scale a denoising step may take.

A step takes the largest scale whose score is below that scale's threshold, else the base scale 1; a batch takes
the finest choice of its samples.

scales: 1 first, then increasing. thresholds: one per scale > 1, in the same order.
The first protect_first and the last protect_last steps of a run are at the base scale, whatever the scores.)")
      .def(py::init<std::vector<int64_t>, std::vector<double>, int64_t, int64_t>(), py::arg("scales"),
           py::arg("thresholds"), py::arg("protect_first") = 0, py::arg("protect_last") = 0)
      .def("begin", &PatchScheduler::begin, py::arg("total_steps") = 0,
           R"(Start a new run of total_steps steps; 0 where the length is unknown.

Where protect_last is set the length must be known: ValueError otherwise.)")
      .def(
          "decide",
          [](PatchScheduler& self, int64_t step, const py::object& scores) {
            return self.decide(step, to_scores(scores));
          },
          py::arg("step"), py::arg("scores"),
          R"(The scale of a step, from scores[sample][scale], one per entry of scales (the base scale's isn't looked at).

Empty scores or None: there is no signal, and the step is at the base scale. A NaN is below no threshold.
Steps may be skipped but not go back; asked again for the same step, the answer is the same, whatever the scores.)")
      .def_property_readonly(
          "per_sample", [](const PatchScheduler& self) { return self.per_sample(); },
          "What each sample would have taken by itself at the last decision; empty where there was no "
          "signal.")
      .def_property_readonly("scales", [](const PatchScheduler& self) { return self.scales(); })
      .def_property_readonly("thresholds", [](const PatchScheduler& self) { return self.thresholds(); })
      .def_property_readonly("protect_first", &PatchScheduler::protect_first)
      .def_property_readonly("protect_last", &PatchScheduler::protect_last)
      .def("__repr__", &PatchScheduler::repr);
}
