// The pieces of ddit_ext._core.
#pragma once

#include <pybind11/pybind11.h>

namespace ddit_core {

void bind_policy(pybind11::module_& module);  // the base class comes first
void bind_signal_policies(pybind11::module_& module);
void bind_planned_policies(pybind11::module_& module);
void bind_forecast_plan(pybind11::module_& module);
void bind_tea_cache_policy(pybind11::module_& module);

}  // namespace ddit_core
