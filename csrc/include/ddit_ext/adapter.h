// A trained adapter as tensors: what a C++ loop needs for its coarse steps. Has torch types.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ddit_ext/adapter_file.h"
#include "ddit_ext/tensors.h"

namespace ddit {

// The addition lora_scale * b (a x) to one linear layer of the transformer.
struct LowRank {
  at::Tensor a;  // [r, in]
  at::Tensor b;  // [out, r]
};

// The trained part of the residual; see docs/design/adapter-format.md.
struct Refinement {
  at::Tensor knots;          // [3, K] float32, whatever the adapter's dtype: corrections to alpha, beta and g
  at::Tensor input_weight;   // [hidden, C_in, s*p, s*p]
  at::Tensor input_bias;     // [hidden]
  at::Tensor level_weight;   // [hidden, 8]
  at::Tensor token_weight;   // [hidden, D], or undefined: the tokens are not looked at
  at::Tensor output_weight;  // [C_out, s*p, s*p, hidden]
  at::Tensor output_bias;    // [C_out, s*p, s*p]
};

// Everything that one patch size owns, ready for patch_embed and patch_deembed.
struct ScaleWeights {
  ScaleSpec spec;
  at::Tensor embed_weight;              // [D, C_in, s*p, s*p]
  at::Tensor embed_bias;                // [D], the patch-size embedding added
  at::Tensor deembed_weight;            // [C_out, s*p, s*p, D]
  at::Tensor deembed_bias;              // [C_out, s*p, s*p]
  std::map<std::string, LowRank> lora;  // by the layer's dotted name in the transformer
  std::optional<Refinement> refinement;
};

class Adapter {
 public:
  Adapter(AdapterFile file, at::ScalarType dtype, at::Device device) : file_(std::move(file)) {
    TORCH_CHECK_VALUE(at::isFloatingType(dtype), "load_adapter: dtype must be floating point, got ", dtype);
    for (const ScaleSpec& spec : file_.scales()) weights_.emplace(spec.scale, read(spec, dtype, device));
  }

  // The coarse scales, ascending, without 1.
  std::vector<int64_t> scales() const {
    std::vector<int64_t> scales;
    for (const auto& entry : weights_) scales.push_back(entry.first);
    return scales;
  }

  const ScaleWeights& weights(int64_t scale) const {
    const auto found = weights_.find(scale);
    if (found == weights_.end()) {
      std::string known;
      for (const auto& entry : weights_) known += (known.empty() ? "" : ", ") + std::to_string(entry.first);
      throw std::invalid_argument("Adapter: scale must be one of its " + known + ", got " +
                                  std::to_string(scale));
    }
    return found->second;
  }

  // What the files say besides: version, base model, training, and the tensors by their names there.
  const AdapterFile& file() const { return file_; }

 private:
  ScaleWeights read(const ScaleSpec& spec, at::ScalarType dtype, at::Device device) const {
    const std::string prefix = std::to_string(spec.scale) + ".";
    const auto own = [&](const std::string& name) { return read_tensor(file_.tensors(), prefix + name); };
    const auto cast = [&](const at::Tensor& tensor) { return tensor.to(device, dtype); };
    ScaleWeights weights;
    weights.spec = spec;
    weights.embed_weight = cast(own("embed_weight"));
    weights.embed_bias = cast(own("embed_bias").to(at::kFloat) + own("size_embedding").to(at::kFloat));
    weights.deembed_weight = cast(own("deembed_weight"));
    weights.deembed_bias = cast(own("deembed_bias"));
    if (spec.rank > 0) {
      for (const auto& entry : file_.lora_layers()) {
        const std::string layer = "lora." + entry.first;
        weights.lora[entry.first] = {cast(own(layer + ".a")), cast(own(layer + ".b"))};
      }
    }
    if (spec.refinement_hidden > 0) {
      weights.refinement =
          Refinement{own("refinement.knots").to(device, at::kFloat),
                     cast(own("refinement.input_weight")),
                     cast(own("refinement.input_bias")),
                     cast(own("refinement.level_weight")),
                     spec.refinement_tokens ? cast(own("refinement.token_weight")) : at::Tensor(),
                     cast(own("refinement.output_weight")),
                     cast(own("refinement.output_bias"))};
    }
    return weights;
  }

  AdapterFile file_;
  std::map<int64_t, ScaleWeights> weights_;
};

// path: the folder that the trainer wrote, or the adapter.safetensors in it. FileError says what is wrong
// with the files. Whether it belongs to your model nobody can check here: file().base() is the base's
// fingerprint.
inline Adapter load_adapter(const std::string& path, at::ScalarType dtype = at::kFloat,
                            at::Device device = at::kCPU) {
  return Adapter(AdapterFile(path), dtype, device);
}

}  // namespace ddit
