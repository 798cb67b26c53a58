// Embeds a latent with an identity weight, de-embeds it again and asks for its acceleration. With the paths
// of an adapter and of a file with what Python computed, makes the same coarse steps and prints how far they
// are apart. Then what misfits say.
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <ddit_ext/ddit_ext.h>

#include <algorithm>
#include <exception>
#include <iostream>

namespace {

// The text of the error, up to torch's stack.
template <class Call>
void print_error(const Call& call) {
  try {
    call();
    std::cout << "no error\n";
  } catch (const std::exception& error) {
    const std::string text = error.what();
    std::cout << text.substr(0, text.find('\n')) << "\n";
  }
}

double difference(const at::Tensor& ours, const at::Tensor& theirs) {
  if (ours.sizes() != theirs.sizes()) return 1e9;
  return ((ours - theirs).abs().max() / theirs.abs().max()).item<double>();
}

void compare_coarse_steps(const std::string& adapter_path, const std::string& case_path) {
  const ddit::Adapter adapter = ddit::load_adapter(adapter_path);
  const auto expected = ddit::read_tensors(ddit::Safetensors(case_path));
  for (int64_t scale : adapter.scales()) {
    const auto get = [&](const std::string& name) { return expected.at(std::to_string(scale) + "." + name); };
    const ddit::CoarseStep step(adapter.weights(scale), get("cells"), get("sigma"));
    const at::Tensor positions = ddit::coarse_positions(get("cells").size(3), adapter.weights(scale).spec);
    std::cout << scale << " "
              << std::max({difference(step.timestep(), get("timestep")),
                           difference(step.tokens(), get("tokens")),
                           difference(step.velocity(get("blocks")), get("velocity")),
                           difference(positions, get("positions"))})
              << "\n";
  }
}

void print_errors() {
  const at::Tensor cells = at::randn({1, 1, 4, 4, 1, 2, 2}), weight = at::randn({3, 1, 4, 4}), undefined;
  const auto embed = [&](const at::Tensor& c, const at::Tensor& w, const ddit::OptionalTensor& bias) {
    print_error([&] { ddit::patch_embed(c, w, bias, {}, {}, 1.0, 2); });
  };
  embed(undefined, weight, {});
  embed(cells, undefined, {});
  embed(cells, weight, undefined);
  embed(cells, weight.to(at::kMeta), {});
  embed(cells, weight.to(at::kDouble), {});
  embed(cells, weight, at::randn({4}));
  print_error([&] { ddit::patch_embed(cells, weight, {}, {}, {}, 1.0, 2, at::ones({1})); });
  print_error([&] { ddit::cells_from_packed(undefined, 1, 1); });
  print_error([&] { ddit::acceleration_quantiles(cells, cells, undefined, cells, {1}, 0.5); });
  print_error([&] { ddit::detail::check_versions("9.9.9", aoti_torch_abi_version()); });
  const std::string minor = ddit::detail::minor_of(DDIT_EXT_VERSION);
  print_error([&] { ddit::detail::check_versions(minor + ".99", aoti_torch_abi_version()); });
  print_error([&] { ddit::detail::check_versions(DDIT_EXT_VERSION, uint64_t{0x0209} << 48); });
  print_error([&] { ddit::load_adapter("/nowhere"); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "errors") {
    print_errors();
    return 0;
  }
  const at::Tensor packed = at::randn({2, 7 * 5, 4 * 4});
  const at::Tensor cells = ddit::cells_from_packed(packed, 7, 5);
  const at::Tensor identity = at::eye(4 * 4 * 4);
  const at::Tensor tokens = ddit::patch_embed(cells, identity.view({64, 4, 4, 4}), {}, {}, {}, 1.0, 2);
  const at::Tensor back =
      ddit::patch_deembed(tokens, identity.view({4, 4, 4, 64}), {}, {}, {}, 1.0, 2, {1, 7, 5});
  const at::Tensor zero = at::zeros_like(cells);
  const at::Tensor scores = ddit::acceleration_quantiles(cells, zero, zero, zero, {1, 2}, 0.4);
  ddit::PatchScheduler scheduler({1, 2}, {1e-3});
  const bool good = back.reshape_as(packed).equal(packed) && scores.sizes() == at::IntArrayRef({2, 2}) &&
                    scheduler.decide(0, {}) == 1;
  if (argc > 2) compare_coarse_steps(argv[1], argv[2]);
  std::cout << (good ? "good" : "wrong") << "\n";
  return good ? 0 : 1;
}
