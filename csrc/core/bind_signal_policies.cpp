// PatchScheduler and BudgetPolicy.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/bind.h"
#include "ddit_ext/budget_policy.h"
#include "ddit_ext/patch_scheduler.h"

namespace ddit_core {
namespace {

namespace py = pybind11;
using ddit::BudgetPolicy;
using ddit::PatchScheduler;
using ddit::SignalOptions;
using ddit::SignalPolicy;

// One of two words; the second is chosen by `true`.
bool second(const char* argument, const std::string& value, const char* first, const char* other) {
  if (value == other) return true;
  if (value == first) return false;
  throw py::value_error(std::string(argument) + " must be '" + first + "' or '" + other + "', got '" + value +
                        "'");
}

SignalOptions options(std::optional<int64_t> warmup_scale, bool only_finer, const std::string& mixed) {
  SignalOptions result;
  result.warmup_scale = warmup_scale;
  result.only_finer = only_finer;
  if (second("mixed", mixed, "use", "hold")) result.mixed = SignalOptions::Mixed::kHold;
  return result;
}

constexpr const char* kSchedulerDoc = R"(The paper's rule: which patch scale a denoising step may take.

A step takes the largest scale whose score is below that scale's threshold, else the base scale 1; a batch takes
the finest choice of its samples. A step without a signal is at the base scale.

scales: 1 first, then increasing. thresholds: one per scale > 1, in the same order.
The first protect_first and the last protect_last steps of a run are at the base scale, whatever the scores.

warmup_scale: of the steps before the first signal; None: the base scale, as in the paper.
only_finer: never back to a larger scale once a signal has made it smaller.
mixed: "use" scores differences between steps of two scales like any other, as the paper does; "hold" leaves them
out, and the last scale holds until all differences are of one scale again (at most 3 steps).)";

constexpr const char* kBudgetDoc =
    R"(Ends a run on budget: how fast it is is given, where it is fine follows the scores.

The budget is total_steps / target_speedup, in steps at the base scale. Each step compares its scores with one
threshold for all scales, chosen anew: the one at which the steps to come would use up what is left. What scores they
will have is read from `reference`, or else taken to be as those seen so far. The cost of a run (protected steps
included) never exceeds the budget, and falls short of it by less than what one step can save; that comes before
only_finer, warmup_scale and held steps.
Steps without a signal are at the largest scale, as long as the rest can still use up the budget.

scales: 1 first, then increasing. costs: of a step at each scale > 1, in units of one at the base scale: below 1
and falling. target_speedup: at least 1, of the whole run, by these costs.
reference: the scores [step][scale] of a run like those to come, of any length; a factor between its scores and
those of a run is found during the run. None: none.
begin() needs the length of the run. The other arguments are those of PatchScheduler.)";

}  // namespace

void bind_signal_policies(py::module_& module) {
  py::class_<SignalPolicy, ddit::RunPolicy>(module, "SignalPolicy",
                                            "What the policies that look at scores share.")
      .def_property_readonly("warmup_scale",
                             [](const SignalPolicy& self) { return self.options().warmup_scale; })
      .def_property_readonly("only_finer", [](const SignalPolicy& self) { return self.options().only_finer; })
      .def_property_readonly("mixed", [](const SignalPolicy& self) {
        return self.options().mixed == SignalOptions::Mixed::kHold ? "hold" : "use";
      });

  py::class_<PatchScheduler, SignalPolicy>(module, "PatchScheduler", kSchedulerDoc)
      .def(py::init([](std::vector<int64_t> scales, std::vector<double> thresholds, int64_t protect_first,
                       int64_t protect_last, std::optional<int64_t> warmup_scale, bool only_finer,
                       const std::string& mixed) {
             return PatchScheduler(std::move(scales), std::move(thresholds), protect_first, protect_last,
                                   options(warmup_scale, only_finer, mixed));
           }),
           py::arg("scales"), py::arg("thresholds"), py::arg("protect_first") = 0,
           py::arg("protect_last") = 0, py::kw_only(), py::arg("warmup_scale") = py::none(),
           py::arg("only_finer") = false, py::arg("mixed") = "use")
      .def_property_readonly("thresholds", [](const PatchScheduler& self) { return self.thresholds(); });

  py::class_<BudgetPolicy, SignalPolicy>(module, "BudgetPolicy", kBudgetDoc)
      .def(py::init([](std::vector<int64_t> scales, std::vector<double> costs, double target_speedup,
                       int64_t protect_first, int64_t protect_last, std::optional<ddit::Scores> reference,
                       std::optional<int64_t> warmup_scale, bool only_finer, const std::string& mixed) {
             return BudgetPolicy(std::move(scales), std::move(costs), target_speedup, protect_first,
                                 protect_last, options(warmup_scale, only_finer, mixed),
                                 reference.value_or(ddit::Scores{}));
           }),
           py::arg("scales"), py::arg("costs"), py::arg("target_speedup"), py::arg("protect_first") = 0,
           py::arg("protect_last") = 0, py::kw_only(), py::arg("reference") = py::none(),
           py::arg("warmup_scale") = py::none(), py::arg("only_finer") = false, py::arg("mixed") = "use")
      .def("revise", &BudgetPolicy::revise, py::arg("costs"),
           "Better known costs, also in the middle of a run: the steps that were decided are counted by "
           "them, too. "
           "If the target is out of reach by them, the rest of the run is at the largest scale.")
      .def_property_readonly(
          "costs",
          [](const BudgetPolicy& self) {
            return std::vector<double>(self.costs().begin() + 1, self.costs().end());
          },
          "Of a step at each scale > 1, in units of one at the base scale.")
      .def_property_readonly("target_speedup", &BudgetPolicy::target_speedup)
      .def_property_readonly("reference", [](const BudgetPolicy& self) { return self.reference(); })
      .def_property_readonly("threshold", &BudgetPolicy::threshold,
                             "Of the last step that had a signal; 0 before.")
      .def_property_readonly("spent", &BudgetPolicy::spent, "Cost of the decisions of this run so far.");
}

}  // namespace ddit_core
