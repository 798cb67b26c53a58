// Argument errors, the same in every op: "patch_embed: weight must have shape [D, C, s*p, s*p] = ..., got
// ...".
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ddit::ops {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// Becomes a RuntimeError in Python. STD_TORCH_CHECK would put a file and a line before the message. A text
// costs more than a small op: it is made of the parts only when it is needed, also by show and show_shape.
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

template <class List>
struct Shown {
  const List& list;

  friend std::ostream& operator<<(std::ostream& out, const Shown& shown) {
    out << '[';
    for (size_t i = 0; i < shown.list.size(); ++i) out << (i ? ", " : "") << shown.list[i];
    return out << ']';
  }
};

// For an argument of check: it refers to the list.
template <class List>
Shown<List> show(const List& list) {
  return {list};
}

struct ShownShape {
  const Tensor& tensor;

  friend std::ostream& operator<<(std::ostream& out, const ShownShape& shown) {
    return out << show(shown.tensor.sizes());
  }
};

inline ShownShape show_shape(const Tensor& tensor) { return {tensor}; }

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
                        IntHeaderOnlyArrayRef expected, const char* layout) {
  check(tensor.sizes().equals(expected), op, ": ", name, " must have shape ", layout, " = ", show(expected),
        ", got ", show_shape(tensor));
}

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half ||
            dtype == ScalarType::Double,
        op, ": ", name, " must be float32, bfloat16, float16 or float64, got ", dtype_name(dtype));
}

// As numbers of libtorch: to compare them, their names need not be looked up.
struct Kind {
  int32_t dtype, device_type, device_index;

  explicit Kind(const Tensor& tensor) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device_type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &device_index));
  }
};

inline void check_same_device(const char* op, const char* name, const Kind& kind, const char* like_name,
                              const Kind& expected) {
  check(kind.device_type == expected.device_type && kind.device_index == expected.device_index, op, ": ",
        name, " must be on the device of ", like_name);
}

// Tensors of a call share dtype and device.
inline void check_same_kind(const char* op, const char* name, const Tensor& tensor, const char* like_name,
                            const Tensor& like) {
  const Kind kind(tensor), expected(like);
  if (kind.dtype != expected.dtype)
    fail(op, ": ", name, " must have the dtype of ", like_name, ", ", dtype_name(like.scalar_type()),
         ", got ", dtype_name(tensor.scalar_type()));
  check_same_device(op, name, kind, like_name, expected);
}

inline void check_lora_pair(const char* op, const std::optional<Tensor>& lora_a,
                            const std::optional<Tensor>& lora_b) {
  check(lora_a.has_value() == lora_b.has_value(), op, ": lora_a and lora_b must be given together, got only ",
        lora_a ? "lora_a" : "lora_b");
}

}  // namespace ddit::ops
