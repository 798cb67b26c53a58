// Reads .safetensors files with suspicion: every length and offset is checked before it is used, and memory
// is taken for what the file really holds, never for what it says. Free of torch.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ddit {

// A file that is missing, damaged or not what was expected. The text names the file and the field in it.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class DType {
  kBool,
  kUInt8,
  kInt8,
  kFloat8E4M3,
  kFloat8E5M2,
  kInt16,
  kUInt16,
  kFloat16,
  kBFloat16,
  kInt32,
  kUInt32,
  kFloat32,
  kInt64,
  kUInt64,
  kFloat64
};

const char* name_of(DType dtype);       // as the format writes it: "F32", "BF16", ...
int64_t bytes_of_element(DType dtype);  // 1, 2, 4 or 8

struct TensorInfo {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;  // row-major; [] is one element
  uint64_t offset = 0;         // in bytes, from the begin of the file
  uint64_t bytes = 0;

  uint64_t elements() const { return bytes / static_cast<uint64_t>(bytes_of_element(dtype)); }
};

// The header is read and checked when the object is made; values are read from the file when asked for. A
// copy shares the open file. Every error is a FileError.
class Safetensors {
 public:
  explicit Safetensors(const std::string& path);

  // A file that is in memory; `name` stands for it in errors.
  static Safetensors from_bytes(std::string bytes, std::string name);

  const std::string& name() const;
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const TensorInfo& at(const std::string& tensor) const;

  // Copies a tensor's bytes as they are in the file (little-endian) to `out`, which holds info.bytes.
  void read(const std::string& tensor, void* out) const;

  // The values of an F32, F16, BF16 or F64 tensor, as float32.
  std::vector<float> floats(const std::string& tensor) const;

  // Whether an F32, F16, BF16 or F64 tensor holds no infinity and no NaN.
  bool is_finite(const std::string& tensor) const;

  // SHA-256 of the whole file, as 64 hexadecimal digits, and its length in bytes.
  std::string sha256() const;
  uint64_t file_bytes() const;

 private:
  class Source;
  explicit Safetensors(std::shared_ptr<const Source> source);

  std::shared_ptr<const Source> source_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace ddit
