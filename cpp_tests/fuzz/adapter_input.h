// An adapter out of one input: "<scales>\0<lora_layers>\0<a .safetensors file>". The description around the
// first two is made here, with the right digest: no mutation would ever find one.
#pragma once

#include <optional>
#include <string>

#include "ddit_ext/adapter_file.h"
#include "ddit_ext/safetensors.h"

namespace ddit_test {

// Nothing where the input has no two zero bytes; FileError as AdapterFile has it.
inline std::optional<ddit::AdapterFile> adapter_of(const std::string& input) {
  const size_t first = input.find('\0');
  const size_t second = first == std::string::npos ? first : input.find('\0', first + 1);
  if (second == std::string::npos) return std::nullopt;
  const ddit::Safetensors tensors = ddit::Safetensors::from_bytes(input.substr(second + 1), "tensors");
  const std::string description =
      R"({"format": "ddit_ext.adapter", "format_version": 1, "ddit_ext": "0", "base": {"family": "", )"
      R"("config": {}, "weights": {}}, "training": {}, "scales": )" +
      input.substr(0, first) + R"(, "lora_layers": )" + input.substr(first + 1, second - first - 1) +
      R"(, "tensors": {"bytes": )" + std::to_string(tensors.file_bytes()) + R"(, "sha256": ")" +
      tensors.sha256() + "\"}}";
  return ddit::AdapterFile(description, tensors);
}

}  // namespace ddit_test
