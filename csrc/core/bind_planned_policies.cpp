// FixedSchedule, LinearRamp, RandomSchedule and coarse_share.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <variant>
#include <vector>

#include "core/bind.h"
#include "ddit_ext/planned_policy.h"

namespace ddit_core {

namespace py = pybind11;
using ddit::FixedSchedule;
using ddit::LinearRamp;
using ddit::RandomSchedule;

void bind_planned_policies(py::module_& module) {
  py::class_<FixedSchedule, ddit::RunPolicy>(module, "FixedSchedule",
                                             R"(One scale for all steps, or a list of one scale a step.

A list may be longer than the run, not shorter; a 0 in it, but not as the first, skips the step. scales: those that a step may take, 1 first, then increasing.
The first protect_first and the last protect_last steps of a run are at the base scale.)")
      .def(py::init<std::vector<int64_t>, int64_t, int64_t, int64_t>(), py::arg("scales"),
           py::arg("schedule"), py::arg("protect_first") = 0, py::arg("protect_last") = 0)
      .def(py::init<std::vector<int64_t>, std::vector<int64_t>, int64_t, int64_t>(), py::arg("scales"),
           py::arg("schedule"), py::arg("protect_first") = 0, py::arg("protect_last") = 0)
      .def_property_readonly("schedule",
                             [](const FixedSchedule& self) -> std::variant<int64_t, std::vector<int64_t>> {
                               if (self.is_constant()) return self.schedule().front();
                               return self.schedule();
                             });

  py::class_<LinearRamp, ddit::RunPolicy>(module, "LinearRamp", R"(Coarse at the start, fine at the end.

coarse_share of the run's steps, in [0, 1], are coarse, in equal stretches from the largest scale down; see
coarse_share(costs, target_speedup). Protected steps count as fine and move the stretches, not their length.
begin() needs the length of the run. scales, protect_first, protect_last: as in PatchScheduler.)")
      .def(py::init<std::vector<int64_t>, double, int64_t, int64_t>(), py::arg("scales"),
           py::arg("coarse_share"), py::arg("protect_first") = 0, py::arg("protect_last") = 0)
      .def_property_readonly("coarse_share", &LinearRamp::coarse_share);

  py::class_<RandomSchedule, LinearRamp>(
      module, "RandomSchedule",
      R"(A control for experiments: the steps of a LinearRamp in an order drawn from `seed`.

It costs exactly what the LinearRamp with the same arguments does, and is the same on every machine. Protected
steps stay where they are.)")
      .def(py::init<std::vector<int64_t>, double, uint64_t, int64_t, int64_t>(), py::arg("scales"),
           py::arg("coarse_share"), py::arg("seed") = 0, py::arg("protect_first") = 0,
           py::arg("protect_last") = 0)
      .def_property_readonly("seed", &RandomSchedule::seed);

  module.def("coarse_share", &ddit::coarse_share, py::arg("costs"), py::arg("target_speedup"),
             R"(The share of coarse steps, each coarse scale as often as the other, that reaches a speedup.

costs: of a step at each scale > 1, in units of one at the base scale, each in (0, 1). ValueError where no share
of them is as fast as target_speedup.)");
}

}  // namespace ddit_core
