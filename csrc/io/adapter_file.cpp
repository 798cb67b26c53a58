#include "ddit_ext/adapter_file.h"

#include <sys/stat.h>

#include <utility>

#include "io/adapter_description.h"
#include "io/file_source.h"

namespace ddit {
namespace {

constexpr const char* kTensors = "adapter.safetensors";
constexpr const char* kDescription = "adapter.json";
constexpr uint64_t kLongestDescription = uint64_t{16} << 20;  // bytes
constexpr int64_t kLevelFeatures = 8;                         // columns of refinement.level_weight

std::string show(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// The folder, with a slash, in which both files lie.
std::string folder_of(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw FileError("adapter: path holds a zero byte");
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0)
    throw FileError("adapter: there is no file or folder \"" + path + "\"");
  if (S_ISDIR(status.st_mode)) return path + "/";
  const size_t slash = path.rfind('/');
  const std::string file = slash == std::string::npos ? path : path.substr(slash + 1);
  if (file != kTensors && file != kDescription)
    throw FileError("expected an adapter's folder or its " + std::string(kTensors) + ", got \"" + path +
                    "\"");
  return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

}  // namespace

AdapterFile::AdapterFile(const std::string& path) {
  const std::string folder = folder_of(path);
  read_description(io::read_text(folder + kDescription, kLongestDescription), folder + kDescription);
  tensors_.emplace(folder + kTensors);
  check_tensors();
}

AdapterFile::AdapterFile(const std::string& description, Safetensors tensors, const std::string& name) {
  read_description(description, name);
  tensors_.emplace(std::move(tensors));
  check_tensors();
}

void AdapterFile::read_description(const std::string& text, const std::string& name) {
  io::AdapterDescription found = io::read_description(text, name);
  version_ = std::move(found.version);
  family_ = std::move(found.family);
  base_ = std::move(found.base);
  training_ = std::move(found.training);
  scales_ = std::move(found.scales);
  lora_layers_ = std::move(found.lora_layers);
  file_bytes_ = static_cast<uint64_t>(found.file_bytes);
  sha256_ = std::move(found.sha256);
}

std::map<std::string, std::vector<int64_t>> AdapterFile::shapes(const ScaleSpec& spec) const {
  const int64_t side = spec.scale * spec.patch_size, D = spec.width;
  const int64_t in = spec.in_channels, out = spec.out_channels, hidden = spec.refinement_hidden;
  std::map<std::string, std::vector<int64_t>> shapes{{"embed_weight", {D, in, side, side}},
                                                     {"embed_bias", {D}},
                                                     {"size_embedding", {D}},
                                                     {"deembed_weight", {out, side, side, D}},
                                                     {"deembed_bias", {out, side, side}}};
  if (spec.rank > 0) {
    for (const auto& [layer, features] : lora_layers_) {
      shapes["lora." + layer + ".a"] = {spec.rank, features.in_features};
      shapes["lora." + layer + ".b"] = {features.out_features, spec.rank};
    }
  }
  if (hidden > 0) {
    shapes["refinement.knots"] = {3, spec.refinement_knots};
    shapes["refinement.input_weight"] = {hidden, in, side, side};
    shapes["refinement.input_bias"] = {hidden};
    shapes["refinement.level_weight"] = {hidden, kLevelFeatures};
    if (spec.refinement_tokens) shapes["refinement.token_weight"] = {hidden, D};
    shapes["refinement.output_weight"] = {out, side, side, hidden};
    shapes["refinement.output_bias"] = {out, side, side};
  }
  return shapes;
}

void AdapterFile::check_tensors() const {
  const std::string& file = tensors_->name();
  if (tensors_->file_bytes() != file_bytes_)
    throw FileError(file + " is truncated or from another save: expected " + std::to_string(file_bytes_) +
                    " bytes, got " + std::to_string(tensors_->file_bytes()));
  const std::string digest = tensors_->sha256();
  if (digest != sha256_)
    throw FileError(file + " is damaged or from another save: expected sha256 " + sha256_.substr(0, 64) +
                    ", got " + digest);
  // Many scales times many layers would be more names than any file has: counted before they are written out.
  size_t expected = 0;
  for (const ScaleSpec& spec : scales_)
    expected += 5 + (spec.rank > 0 ? 2 * lora_layers_.size() : 0) +
                (spec.refinement_hidden > 0 ? 6 + spec.refinement_tokens : 0);
  if (expected != tensors_->tensors().size())
    throw FileError(file + ": expected " + std::to_string(expected) + " tensors, got " +
                    std::to_string(tensors_->tensors().size()));
  for (const ScaleSpec& spec : scales_) {
    for (const auto& [name, shape] : shapes(spec)) {
      const std::string full = std::to_string(spec.scale) + "." + name;
      const TensorInfo& info = tensors_->at(full);
      if (info.shape != shape)
        throw FileError(file + ": " + full + " must have shape " + show(shape) + ", got " + show(info.shape));
      if (!tensors_->is_finite(full))
        throw FileError(file + ": " + full + " holds values that are not finite");
    }
  }
}

}  // namespace ddit
