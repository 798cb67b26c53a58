// ForecastPlan.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "core/bind.h"
#include "ddit_ext/forecast_plan.h"

namespace ddit_core {

namespace py = pybind11;

namespace {

ddit::ForecastTarget target_of(const std::string& name) {
  if (name == "run") return ddit::ForecastTarget::kRun;
  if (name == "exact") return ddit::ForecastTarget::kExact;
  throw std::invalid_argument("ForecastPlan: target must be \"run\" or \"exact\", got \"" + name + "\"");
}

ddit::ForecastSolver solver_of(const std::string& name) {
  if (name == "euler") return ddit::ForecastSolver::kEuler;
  if (name == "multistep") return ddit::ForecastSolver::kMultistep;
  throw std::invalid_argument("ForecastPlan: solver must be \"euler\" or \"multistep\", got \"" + name +
                              "\"");
}

}  // namespace

void bind_forecast_plan(py::module_& module) {
  using ddit::ForecastCall;
  using ddit::ForecastPlan;
  using ddit::ForecastSettings;
  using ddit::ForecastTarget;
  py::class_<ForecastCall>(module, "ForecastCall",
                           "One model call and the gap after it (ddit_ext/forecast_plan.h).")
      .def_readonly("step", &ForecastCall::step, "Index among all steps.")
      .def_readonly("levels", &ForecastCall::levels, "Steps that this call stands for: itself and the gap.")
      .def_readonly("sigma", &ForecastCall::sigma)
      .def_readonly("next_sigma", &ForecastCall::next_sigma)
      .def_readonly("of_sample", &ForecastCall::of_sample)
      .def_readonly("of_output", &ForecastCall::of_output)
      .def_readonly("s0", &ForecastCall::s0)
      .def_readonly("s1", &ForecastCall::s1)
      .def_readonly("keep", &ForecastCall::keep)
      .def_readonly("slope", &ForecastCall::slope)
      .def_readonly("forecast", &ForecastCall::forecast, "slope * s1")
      .def_readonly("correction", &ForecastCall::correction, "corrector * s1")
      .def(py::pickle(
          [](const ForecastCall& call) {
            return py::make_tuple(call.step, call.levels, call.sigma, call.next_sigma, call.of_sample,
                                  call.of_output, call.s0, call.s1, call.keep, call.slope, call.forecast,
                                  call.correction);
          },
          [](const py::tuple& state) {
            const auto at = [&](size_t index) { return state[index].cast<double>(); };
            return ForecastCall{state[0].cast<int64_t>(),
                                state[1].cast<int64_t>(),
                                at(2),
                                at(3),
                                at(4),
                                at(5),
                                at(6),
                                at(7),
                                at(8),
                                at(9),
                                at(10),
                                at(11)};
          }));
  py::class_<ForecastPlan>(module, "ForecastPlan",
                           R"(Which steps of a run call the model, and what bridges the others.

sigmas: the noise levels of all steps and the end. calls: how many steps call the model. target: "run" or "exact".
growth in [1, 4], slope and corrector in [0, 1]; None takes the default for calls, steps, target and solver.
solver: "euler", gaps in closed form, or "multistep", a sampler that takes every level.
ValueError where an argument is not meant.)")
      .def(py::init([](const std::vector<double>& sigmas, int64_t calls, const std::string& target,
                       std::optional<double> growth, std::optional<double> slope,
                       std::optional<double> corrector, const std::string& solver) {
             return ForecastPlan(sigmas, calls, target_of(target), growth, slope, corrector,
                                 solver_of(solver));
           }),
           py::arg("sigmas"), py::arg("calls"), py::arg("target") = "run", py::arg("growth") = py::none(),
           py::arg("slope") = py::none(), py::arg("corrector") = py::none(), py::arg("solver") = "euler")
      .def(py::pickle(
          [](const ForecastPlan& plan) {
            const ForecastSettings& settings = plan.settings();
            const bool euler = plan.solver() == ddit::ForecastSolver::kEuler;
            const bool exact = plan.target() == ForecastTarget::kExact;
            return py::make_tuple(plan.sigmas(), plan.calls().size(), exact ? "exact" : "run",
                                  settings.growth, settings.slope, settings.corrector,
                                  euler ? "euler" : "multistep");
          },
          [](const py::tuple& state) {
            return ForecastPlan(state[0].cast<std::vector<double>>(), state[1].cast<int64_t>(),
                                target_of(state[2].cast<std::string>()), state[3].cast<double>(),
                                state[4].cast<double>(), state[5].cast<double>(),
                                solver_of(state[6].cast<std::string>()));
          }))
      .def_property_readonly("sigmas", &ForecastPlan::sigmas, "Noise levels of all steps, and of the end.")
      .def_property_readonly("total_steps", &ForecastPlan::total_steps)
      .def_property_readonly("growth", [](const ForecastPlan& plan) { return plan.settings().growth; })
      .def_property_readonly("slope", [](const ForecastPlan& plan) { return plan.settings().slope; })
      .def_property_readonly("corrector", [](const ForecastPlan& plan) { return plan.settings().corrector; })
      .def_property_readonly(
          "line",
          [](const ForecastPlan& plan) {
            return plan.settings().line == ddit::ForecastLine::kSample ? "sample" : "velocity";
          },
          "What forecasts follow: \"velocity\", the output, or \"sample\", the end that it points to.")
      .def_property_readonly("steps", &ForecastPlan::steps, "Indices of the steps that call the model.")
      .def_property_readonly("calls", &ForecastPlan::calls, "A ForecastCall for each of them.");
}

}  // namespace ddit_core
