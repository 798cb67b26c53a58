// The two files of a trained adapter (docs/design/adapter-format.md), read and checked as a whole. Free of
// torch; ddit_ext/adapter.h has the same as at::Tensor.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ddit_ext/safetensors.h"

namespace ddit {

// How a coarse step begins, as docs/design/coarse-step.md has it; in adapter.json the names in lower case.
enum class Start { kNoiseMatched, kPiResize, kBlended };

// The shape and the fixed choices of one patch size; the fields are those of adapter.json.
struct ScaleSpec {
  int64_t scale = 0;         // s: how many base patches a side are merged, at least 2
  int64_t patch_size = 0;    // p: side of a base patch in latent pixels
  int64_t width = 0;         // D: features of a token
  int64_t in_channels = 0;   // C_in: noisy latent, then clean conditions
  int64_t out_channels = 0;  // C_out: the noisy latent alone
  Start start = Start::kNoiseMatched;
  bool centred = true;  // "positions": a token stands at the centre of its cells; false: on a grid 0, 1, ...
  bool detail_residual = true;            // whether g(sigma)*(z - up(low)) is added
  std::optional<double> detail_variance;  // H; without it, estimated from each latent
  int64_t rank = 0;                       // of the feed-forward LoRA; 0: none
  double lora_scale = 1.0;
  int64_t refinement_hidden = 0;  // 0: the residual is the analytic one
  int64_t refinement_knots = 16;
  bool refinement_tokens = false;  // whether the perceptron reads the tokens that leave the blocks
};

// The sizes of one linear layer of the transformer.
struct LoraLayer {
  int64_t in_features = 0, out_features = 0;
};

class AdapterFile {
 public:
  // path: the folder, or the adapter.safetensors or adapter.json in it. Everything is checked before this
  // returns: format and version, digest, names, shapes and types of all tensors, that all values are finite.
  // FileError says what was expected and what came.
  explicit AdapterFile(const std::string& path);

  // Files that are in memory.
  AdapterFile(const std::string& description, Safetensors tensors, const std::string& name = "adapter.json");

  const std::string& version() const { return version_; }    // of the ddit_ext that wrote it
  const std::string& family() const { return family_; }      // of the base model: "flux"
  const std::string& base() const { return base_; }          // its fingerprint, as JSON
  const std::string& training() const { return training_; }  // what the trainer noted, as JSON
  const std::vector<ScaleSpec>& scales() const { return scales_; }
  const std::map<std::string, LoraLayer>& lora_layers() const { return lora_layers_; }
  const Safetensors& tensors() const { return *tensors_; }

  // Name without "<scale>." -> shape of every tensor of one patch size.
  std::map<std::string, std::vector<int64_t>> shapes(const ScaleSpec& spec) const;

 private:
  void read_description(const std::string& text, const std::string& name);
  void check_tensors() const;

  std::string version_, family_, base_, training_;
  std::vector<ScaleSpec> scales_;
  std::map<std::string, LoraLayer> lora_layers_;
  uint64_t file_bytes_ = 0;
  std::string sha256_;
  std::optional<Safetensors> tensors_;
};

}  // namespace ddit
