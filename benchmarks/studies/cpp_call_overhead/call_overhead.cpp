// What a call costs besides its arithmetic: the ops at the smallest shapes they take, and aten's with as many
// tensors. Prints a line a round: the nanoseconds that each candidate took a call, in the order of the first
// line, their names.
//   call_overhead [rounds] [calls] [a name: that candidate alone, for a profiler]
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <ddit_ext/ddit_ext.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace {

// A loop around one op: the loop is compiled, so that a call costs no std::function.
using Loop = std::function<void(int)>;

template <class Call>
Loop repeated(Call call) {
  return [call](int times) {
    for (int i = 0; i < times; ++i) call();
  };
}

std::vector<std::pair<std::string, Loop>> candidates() {
  const at::Tensor cells = at::ones({1, 1, 1, 1, 1, 1, 1}), pixel = at::ones({1, 1, 1, 1}),
                   token = at::ones({1, 1, 1}), row = at::ones({1, 1}), one = at::ones({1}),
                   cube = at::ones({1, 1, 1}), four = at::ones({1, 1, 2, 2, 1, 1, 1}),
                   square = at::ones({1, 1, 2, 2}), sample = at::ones({1, 1, 1, 1});
  return {
      {"linear(x, w, b)", repeated([=] { at::linear(row, row, one); })},
      {"addmm(b, x, w)", repeated([=] { at::addmm(one, row, row); })},
      {"conv2d(x, w, b)", repeated([=] { at::conv2d(sample, pixel, one); })},
      {"layer_norm(x, w, b)", repeated([=] { at::native_layer_norm(row, {1}, one, one, 1e-5); })},
      {"batch_norm(x, w, b, mean, var)",
       repeated([=] { at::native_batch_norm(row, one, one, one, one, false, 0.1, 1e-5); })},
      {"stack(z0, z1, z2, z3)", repeated([=] { at::stack({cells, cells, cells, cells}); })},
      {"conv_transpose2d(x, w, b)", repeated([=] { at::conv_transpose2d(sample, pixel, one); })},
      {"scaled_dot_product_attention(q, k, v, mask)",
       repeated([=] { at::scaled_dot_product_attention(sample, sample, sample, sample); })},
      {"patch_embed", repeated([=] { ddit::patch_embed(cells, pixel, one, {}, {}, 1.0, 1); })},
      {"patch_embed, scale 2", repeated([=] { ddit::patch_embed(four, square, one, {}, {}, 1.0, 2); })},
      {"patch_embed, LoRA", repeated([=] { ddit::patch_embed(cells, pixel, one, pixel, row, 1.0, 1); })},
      {"patch_deembed",
       repeated([=] { ddit::patch_deembed(token, pixel, cube, {}, {}, 1.0, 1, {1, 1, 1}); })},
      {"patch_deembed, LoRA",
       repeated([=] { ddit::patch_deembed(token, pixel, cube, row, pixel, 1.0, 1, {1, 1, 1}); })},
      {"acceleration_quantiles",
       repeated([=] { ddit::acceleration_quantiles(cells, cells, cells, cells, {1}, 0.4); })},
  };
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 50, calls = argc > 2 ? std::atoi(argv[2]) : 200;
  const c10::InferenceMode guard;
  auto all = candidates();
  if (argc > 3) {
    std::vector<std::pair<std::string, Loop>> chosen;
    for (auto& candidate : all)
      if (candidate.first == argv[3]) chosen.push_back(std::move(candidate));
    if (chosen.empty()) {
      std::cerr << "call_overhead: there is no candidate " << argv[3] << "\n";
      return 1;
    }
    all = std::move(chosen);
  }
  for (const auto& [name, loop] : all) std::cout << (name == all.front().first ? "" : "\t") << name;
  std::cout << "\n";
  std::vector<double> taken(all.size());
  for (int round = -5; round < rounds; ++round) {
    for (size_t i = 0; i < all.size(); ++i) {
      // Every other round backwards.
      const size_t at = round % 2 ? all.size() - 1 - i : i;
      const auto start = std::chrono::steady_clock::now();
      all[at].second(calls);
      const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
      taken[at] = elapsed.count() / calls;
    }
    if (round < 0) continue;  // the first ones find the ops and fill the caches
    for (size_t i = 0; i < all.size(); ++i) std::cout << (i ? "\t" : "") << taken[i];
    std::cout << "\n";
  }
}
