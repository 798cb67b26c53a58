// Argument errors, the same in every op: "patch_embed: weight must have shape [D, C, s*p, s*p] = ..., got
// ...".
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ddit::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Becomes a RuntimeError in Python. STD_TORCH_CHECK would put a file and a line before the message.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

template <class List>
std::string show(const List& list) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < list.size(); ++i) text << (i ? ", " : "") << list[i];
  text << ']';
  return text.str();
}

inline std::string show_shape(const Tensor& tensor) { return show(tensor.sizes()); }

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline void check_dim(const char* op, const char* name, const Tensor& tensor, int64_t dim,
                      const char* layout) {
  check(tensor.dim() == dim, op, ": ", name, " must have ", dim, " dimensions ", layout, ", got shape ",
        show_shape(tensor));
}

// `layout` names the dimensions, `expected` gives their values in this call.
inline void check_shape(const char* op, const char* name, const Tensor& tensor,
                        const std::vector<int64_t>& expected, const char* layout) {
  bool same = tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; same && i < expected.size(); ++i) same = tensor.size(i) == expected[i];
  check(same, op, ": ", name, " must have shape ", layout, " = ", show(expected), ", got ",
        show_shape(tensor));
}

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half ||
            dtype == ScalarType::Double,
        op, ": ", name, " must be float32, bfloat16, float16 or float64, got ", dtype_name(dtype));
}

// All tensors of a call share dtype and device with the first one.
inline void check_same_kind(const char* op, const char* name, const Tensor& tensor, const char* like_name,
                            const Tensor& like) {
  check(tensor.scalar_type() == like.scalar_type(), op, ": ", name, " must have the dtype of ", like_name,
        ", ", dtype_name(like.scalar_type()), ", got ", dtype_name(tensor.scalar_type()));
  check(tensor.device() == like.device(), op, ": ", name, " must be on the device of ", like_name);
}

inline void check_lora_pair(const char* op, const std::optional<Tensor>& lora_a,
                            const std::optional<Tensor>& lora_b) {
  check(lora_a.has_value() == lora_b.has_value(), op, ": lora_a and lora_b must be given together, got only ",
        lora_a ? "lora_a" : "lora_b");
}

}  // namespace ddit::ops
