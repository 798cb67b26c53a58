// Embeds a latent with an identity weight, de-embeds it again, and asks for its acceleration.
#include <ATen/ops/eye.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <ddit_ext/ddit_ext.h>

#include <iostream>

int main() {
  const at::Tensor packed = at::randn({2, 7 * 5, 3 * 4});
  const at::Tensor cells = ddit::cells_from_packed(packed, 7, 5);
  const at::Tensor identity = at::eye(3 * 4 * 4);
  const at::Tensor tokens = ddit::patch_embed(cells, identity.view({48, 3, 4, 4}), {}, {}, {}, 1.0, 2);
  const at::Tensor back =
      ddit::patch_deembed(tokens, identity.view({3, 4, 4, 48}), {}, {}, {}, 1.0, 2, {1, 7, 5});
  const at::Tensor zero = at::zeros_like(cells);
  const at::Tensor scores = ddit::acceleration_quantiles(cells, zero, zero, zero, {1, 2}, 0.4);
  ddit::PatchScheduler scheduler({1, 2}, {1e-3});
  const bool good = back.reshape_as(packed).equal(packed) && scores.sizes() == at::IntArrayRef({2, 2}) &&
                    scheduler.decide(0, {}) == 1;
  std::cout << (good ? "good" : "wrong") << "\n";
  return good ? 0 : 1;
}
