// Which function serves which device. Fake kernels, autograd and autocast are registered from Python, in
// ddit_ext/ops.
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

#include "ops/cuda_ops.h"
#include "ops/ops.h"
#include "ops/schemas.h"

STABLE_TORCH_LIBRARY(ddit_ext, m) { ddit::ops::define_schemas(m); }

STABLE_TORCH_LIBRARY_IMPL(ddit_ext, CPU, m) {
  m.impl("patch_embed", TORCH_BOX(&ddit::ops::patch_embed_cpu));
  m.impl("patch_deembed", TORCH_BOX(&ddit::ops::patch_deembed_cpu));
  m.impl("acceleration_quantiles", TORCH_BOX(&ddit::ops::acceleration_quantiles_cpu));
}

#ifdef DDIT_EXT_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(ddit_ext, CUDA, m) { ddit::ops::implement_with_cuda_kernels(m); }
#else
namespace {

// What a CUDA tensor meets: torch's own words would not say what to do.
template <const char* kOp, auto kLike>
struct NotBuilt;

template <const char* kOp, class Result, class... Arguments, Result (*kLike)(Arguments...)>
struct NotBuilt<kOp, kLike> {
  static Result call(Arguments...) {
    throw std::runtime_error(
        std::string(kOp) +
        ": this build of ddit_ext holds no CUDA kernels; build it again where nvcc is, with "
        "DDIT_EXT_CUDA=ON");
  }
};

constexpr char kEmbed[] = "patch_embed", kDeembed[] = "patch_deembed",
               kQuantiles[] = "acceleration_quantiles";
using Embed = NotBuilt<kEmbed, &ddit::ops::patch_embed_cpu>;
using Deembed = NotBuilt<kDeembed, &ddit::ops::patch_deembed_cpu>;
using Quantiles = NotBuilt<kQuantiles, &ddit::ops::acceleration_quantiles_cpu>;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ddit_ext, CUDA, m) {
  m.impl("patch_embed", TORCH_BOX(&Embed::call));
  m.impl("patch_deembed", TORCH_BOX(&Deembed::call));
  m.impl("acceleration_quantiles", TORCH_BOX(&Quantiles::call));
}
#endif
