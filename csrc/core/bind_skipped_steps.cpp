// growing_gaps.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/bind.h"
#include "ddit_ext/skipped_steps.h"

namespace ddit_core {

namespace py = pybind11;

void bind_skipped_steps(py::module_& module) {
  module.def("growing_gaps", &ddit::growing_gaps, py::arg("total_steps"), py::arg("computed"),
             py::arg("growth") = 1.75,
             R"(A schedule of total_steps entries: `computed` of them 1, the others 0, skipped.

The k-th computed step is at total_steps * (k / computed) ** growth, rounded, and after the one before. growth 1
spreads them evenly; above it the gaps grow along the run. For patch(schedule=..., forecast=0.5).
ValueError where computed is not in [1, total_steps] or growth not in [1, 4].)");
}

}  // namespace ddit_core
