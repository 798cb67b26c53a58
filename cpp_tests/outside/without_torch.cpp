// All of the torch-free part: the three ops, the policies with their history, and an adapter's files where a
// path is given. No torch header, no torch library.
#include <ddit_ext/adapter_file.h>
#include <ddit_ext/budget_policy.h>
#include <ddit_ext/latent_history.h>
#include <ddit_ext/patch_scheduler.h>
#include <ddit_ext/plain.h>
#include <ddit_ext/planned_policy.h>

#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  namespace plain = ddit::plain;
  // A 3x5 grid of 2x2 patches of 3 channels: ragged at scale 2, where an identity weight gives it back.
  const int64_t h = 3, w = 5, C = 3, p = 2, s = 2, D = C * s * p * s * p;
  std::vector<float> packed(h * w * C * p * p);
  for (size_t i = 0; i < packed.size(); ++i) packed[i] = static_cast<float>(i % 7) - 3.0f;
  std::vector<float> identity(D * D, 0.0f);
  for (int64_t i = 0; i < D; ++i) identity[i * D + i] = 1.0f;

  const plain::Cells cells = plain::Cells::from_packed(packed.data(), 1, h, w, C, p);
  const auto tokens = plain::patch_embed(cells, identity.data(), nullptr, D, s);
  bool good = plain::patch_deembed(tokens.data(), identity.data(), nullptr, D, s, cells.sizes) == packed;

  // A straight line has no third difference, so the largest scale is chosen.
  ddit::LatentHistory history;
  ddit::PatchScheduler scheduler({1, 2, 4}, {1e-3, 1e-3});
  scheduler.begin(50);
  std::vector<float> z(packed.size());
  for (int step = 0; step < 4; ++step) {
    for (size_t i = 0; i < z.size(); ++i) z[i] = packed[i] * static_cast<float>(step);
    history.push(step, z.data(), cells.sizes);
  }
  good = good && scheduler.decide(3, history.quantiles({1, 2, 4}, 0.4)) == 4;
  good = good && plain::acceleration_quantiles({cells, cells, cells, cells}, {1, 2}, 0.4) ==
                     std::vector<float>{0.0f, 0.0f};

  ddit::BudgetPolicy budget({1, 2}, {0.5}, 1.5);
  ddit::FixedSchedule fixed({1, 2, 4}, {4, 4, 1, 1});
  ddit::Policy* const policies[] = {&budget, &fixed};
  for (ddit::Policy* policy : policies) {
    policy->begin(4);
    good = good && policy->decide(0, {}) == policy->scales().back() && policy->decide(3, {}) == 1;
  }

  if (argc > 1) std::cout << ddit::AdapterFile(argv[1]).scales().size() << " scales\n";
  std::cout << (good ? "good" : "wrong") << "\n";
  return good ? 0 : 1;
}
