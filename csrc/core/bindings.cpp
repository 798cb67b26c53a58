// ddit_ext._core: the C++ policies for Python. Free of torch.
#include <pybind11/pybind11.h>

#include "core/bind.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ policies of ddit_ext; ddit_ext.policies is their public place.";
  ddit_core::bind_policy(module);
  ddit_core::bind_signal_policies(module);
  ddit_core::bind_planned_policies(module);
  ddit_core::bind_forecast_plan(module);
  ddit_core::bind_tea_cache_policy(module);
}
