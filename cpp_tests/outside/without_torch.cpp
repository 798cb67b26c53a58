// The policies alone: no torch header, no torch library.
#include <ddit_ext/budget_policy.h>
#include <ddit_ext/patch_scheduler.h>
#include <ddit_ext/planned_policy.h>

#include <iostream>

int main() {
  ddit::PatchScheduler scheduler({1, 2, 4}, {1e-3, 1e-3});
  scheduler.begin(50);
  ddit::BudgetPolicy budget({1, 2}, {0.5}, 1.5);
  ddit::LinearRamp ramp({1, 2, 4}, 0.5);
  bool good = scheduler.decide(0, {{0.0, 1e-4, 1e-2}}) == 2;
  ddit::Policy* const policies[] = {&budget, &ramp};
  for (ddit::Policy* policy : policies) {
    policy->begin(4);
    good = good && policy->decide(0, {}) == policy->scales().back() && policy->decide(3, {}) == 1;
  }
  std::cout << (good ? "good" : "wrong") << "\n";
  return good ? 0 : 1;
}
