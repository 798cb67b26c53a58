// The scheduler alone: no torch header, no torch library.
#include <ddit_ext/patch_scheduler.h>

#include <iostream>

int main() {
  ddit::PatchScheduler scheduler({1, 2, 4}, {1e-3, 1e-3});
  scheduler.begin(50);
  const bool good = scheduler.decide(0, {{0.0, 1e-4, 1e-2}}) == 2;
  std::cout << (good ? "good" : "wrong") << "\n";
  return good ? 0 : 1;
}
