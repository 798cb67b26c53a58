// TeaCachePolicy.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "core/bind.h"
#include "ddit_ext/tea_cache_policy.h"

namespace ddit_core {
namespace {

constexpr const char* kDoc =
    R"(TeaCache's rule (arXiv 2411.19108): skip steps while the input of the model's first block hardly changes.

The score of a sample is one number, [[change], ...]: mean |x_t - x_{t-1}| / mean |x_{t-1}| of that input at a step
and at the one before. It is rescaled by a polynomial and summed up from one computed step to the next. A sum below
threshold skips the step (the answer is 0): embedding and output projection run, and what the blocks added at the last
computed step is added again. Else the step is computed, at the largest scale whose entry of thresholds the sum is
below, or at 1. A batch does the most that one of its samples needs. A step without a score is computed at 1.

threshold: 0 or more; 0 skips nothing. scales: that a computed step may take, 1 first, then increasing. thresholds: one
per scale > 1, in the same order, none below threshold.
coefficients: of the polynomial, the highest power first, fitted to a model; (1, 0) leaves the change as it is.
The first protect_first and the last protect_last steps of a run are computed at the base scale.)";

}  // namespace

void bind_tea_cache_policy(pybind11::module_& module) {
  namespace py = pybind11;
  using ddit::TeaCachePolicy;
  py::class_<TeaCachePolicy, ddit::RunPolicy>(module, "TeaCachePolicy", kDoc)
      .def(py::init<double, std::vector<int64_t>, std::vector<double>, std::vector<double>, int64_t,
                    int64_t>(),
           py::arg("threshold"), py::arg("scales") = std::vector<int64_t>{1},
           py::arg("thresholds") = std::vector<double>{},
           py::arg("coefficients") = std::vector<double>{1.0, 0.0}, py::arg("protect_first") = 1,
           py::arg("protect_last") = 1)
      .def_property_readonly("threshold", &TeaCachePolicy::threshold)
      .def_property_readonly("thresholds", [](const TeaCachePolicy& self) { return self.thresholds(); })
      .def_property_readonly("coefficients", [](const TeaCachePolicy& self) { return self.coefficients(); })
      .def_property_readonly(
          "accumulated", [](const TeaCachePolicy& self) { return self.accumulated(); },
          "The sum of each sample since the last computed step; empty where that was the last one decided.")
      .def_property_readonly("source", [](const TeaCachePolicy&) { return "input"; });
}

}  // namespace ddit_core
