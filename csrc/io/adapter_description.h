// adapter.json: field by field, nothing unknown, nothing missing.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ddit_ext/adapter_file.h"

namespace ddit::io {

struct AdapterDescription {
  std::string version;   // "ddit_ext"
  std::string family;    // "base.family"
  std::string base;      // JSON
  std::string training;  // JSON
  std::vector<ScaleSpec> scales;
  std::map<std::string, LoraLayer> lora_layers;
  int64_t file_bytes = 0;  // "tensors"
  std::string sha256;
};

// `source` stands for the file in errors.
AdapterDescription read_description(const std::string& text, const std::string& source);

}  // namespace ddit::io
