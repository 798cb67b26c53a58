// FixedSchedule.
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
}

}  // namespace ddit_core
