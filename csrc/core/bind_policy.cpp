// What every policy can do.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/bind.h"
#include "ddit_ext/run_policy.h"

namespace ddit_core {
namespace {

namespace py = pybind11;
using ddit::RunPolicy;

// Nested lists, or anything that turns into them: a tensor, a NumPy array. None is no signal.
ddit::Scores to_scores(const py::handle& self, const py::object& scores) {
  if (scores.is_none()) return {};
  const py::object nested = py::hasattr(scores, "tolist") ? scores.attr("tolist")() : scores;
  try {
    return nested.cast<ddit::Scores>();
  } catch (const py::cast_error&) {
    throw py::type_error(py::type::of(self).attr("__name__").cast<std::string>() +
                         ": scores must be numbers as scores[sample][scale], got " +
                         py::repr(scores).cast<std::string>());
  }
}

}  // namespace

void bind_policy(py::module_& module) {
  py::class_<RunPolicy>(module, "RunPolicy",
                        "What the policies of this library share; not to be constructed.")
      .def("begin", &RunPolicy::begin, py::arg("total_steps") = 0,
           R"(Start a new run of total_steps steps; 0 where the length is unknown.

ValueError where the policy can't do without the length: with protect_last, or to place steps or a budget.)")
      .def(
          "decide",
          [](const py::object& self, int64_t step, const py::object& scores) {
            return self.cast<RunPolicy&>().decide(step, to_scores(self, scores));
          },
          py::arg("step"), py::arg("scores"),
          R"(The scale of a step, from scores[sample][scale], one per entry of scales (the base scale's isn't looked at).

A policy with source "input" takes one number a sample, scores[sample][0]; one that skips may answer 0.

Empty scores or None: there is no signal. A NaN is coarse enough for nothing.
Steps may be skipped but not go back; asked again for the same step, the answer is the same, whatever the scores.)")
      .def_property_readonly(
          "per_sample", [](const RunPolicy& self) { return self.per_sample(); },
          "What each sample would have taken by itself at the last decision; empty where there was no "
          "signal.")
      .def_property_readonly("needs_signal", &RunPolicy::needs_signal,
                             "Whether scores make a difference: without, nobody has to compute them.")
      .def_property_readonly("skips", &RunPolicy::skips,
                             "Whether a decision may be 0: the step is not computed.")
      .def_property_readonly("scales", [](const RunPolicy& self) { return self.scales(); })
      .def_property_readonly("protect_first", &RunPolicy::protect_first)
      .def_property_readonly("protect_last", &RunPolicy::protect_last)
      .def("__copy__", &RunPolicy::clone)
      .def(
          "__deepcopy__", [](const RunPolicy& self, const py::dict&) { return self.clone(); },
          py::arg("memo"))
      .def("__repr__", &RunPolicy::repr);
}

}  // namespace ddit_core
