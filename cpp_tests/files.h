// Small .safetensors files and adapters, made in memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ddit_ext/adapter_file.h"
#include "ddit_ext/safetensors.h"

namespace ddit_test {

// A file of this header and data; the length is that of the header unless given.
inline std::string file_bytes(const std::string& header, const std::string& data = "", int64_t length = -1) {
  const uint64_t told = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(told >> (8 * i) & 0xFF);
  return bytes + header + data;
}

inline ddit::Safetensors in_memory(const std::string& bytes) {
  return ddit::Safetensors::from_bytes(bytes, "file");
}

inline std::string raw(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// What the error says, or "" if there is none.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ddit::FileError& error) {
    return error.what();
  }
  return "";
}

// An adapter of scale 2 for a model of 1 channel, patches of 1 pixel and width 2, with a LoRA on layer "m".
struct TinyAdapter {
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors{{"2.embed_weight", {2, 1, 2, 2}},
                                                                    {"2.embed_bias", {2}},
                                                                    {"2.size_embedding", {2}},
                                                                    {"2.deembed_weight", {1, 2, 2, 2}},
                                                                    {"2.deembed_bias", {1, 2, 2}},
                                                                    {"2.lora.m.a", {1, 3}},
                                                                    {"2.lora.m.b", {5, 1}}};
  std::string scales =
      R"([{"scale": 2, "patch_size": 1, "width": 2, "in_channels": 1, "out_channels": 1, "rank": 1}])";
  std::string layers = R"({"m": [3, 5]})";
  std::string base = R"({"family": "flux", "config": {"n": 1}, "weights": {"x": [0.5, -1e-3]}})";
  std::string format = R"("ddit_ext.adapter")";
  std::string version = "1";
  std::string more;     // further fields of adapter.json, each with a comma behind it
  float value = 0.25f;  // of every element
  std::string sha256;   // instead of the right one
  int64_t bytes = -1;   // likewise

  std::string file() const {
    std::string header = "{", data;
    for (const auto& [name, shape] : tensors) {
      size_t count = 1;
      std::string text;
      for (int64_t size : shape) {
        count *= static_cast<size_t>(size);
        text += (text.empty() ? "" : ",") + std::to_string(size);
      }
      const size_t begin = data.size();
      data += raw(std::vector<float>(count, value));
      header += (header.size() > 1 ? "," : "") + ("\"" + name) + R"(":{"dtype":"F32","shape":[)" + text +
                R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
    }
    return file_bytes(header + "}", data);
  }

  std::string description() const {
    const std::string tensors_file = file();
    const std::string digest = sha256.empty() ? in_memory(tensors_file).sha256() : sha256;
    const int64_t length = bytes < 0 ? static_cast<int64_t>(tensors_file.size()) : bytes;
    return "{" + more + R"("format": )" + format + R"(, "format_version": )" + version +
           R"(, "ddit_ext": "0.1.0", "base": )" + base + R"(, "scales": )" + scales + R"(, "lora_layers": )" +
           layers + R"(, "training": {"steps": 7}, "tensors": {"bytes": )" + std::to_string(length) +
           R"(, "sha256": ")" + digest + "\"}}";
  }

  ddit::AdapterFile load() const { return ddit::AdapterFile(description(), in_memory(file())); }
};

}  // namespace ddit_test
