#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/cpu_numbers.h"
#include "kernels/patch_embed/params.h"

namespace ddit::kernels::patch_embed {
namespace {

// memcpy of a constant size is one load and one store, whatever the alignment.
template <int64_t kBytes>
void copy_units(const std::vector<int64_t>& offsets, const char* from, char* to) {
  for (int64_t offset : offsets) {
    std::memcpy(to, from + offset, kBytes);
    to += kBytes;
  }
}

void copy_units(int64_t bytes, const std::vector<int64_t>& offsets, const char* from, char* to) {
  switch (bytes) {
    case 2:
      return copy_units<2>(offsets, from, to);
    case 4:
      return copy_units<4>(offsets, from, to);
    case 8:
      return copy_units<8>(offsets, from, to);
    case 16:
      return copy_units<16>(offsets, from, to);
  }
}

bool is_copied_at_once(int64_t bytes) { return bytes == 4 || bytes == 8 || bytes == 16; }

// One patch of `channels` times `pixels`.
template <class From, class To>
void multiply(const void* from, void* to, int64_t channels, int64_t pixels, const float* factors,
              int64_t stride) {
  const From* read = static_cast<const From*>(from);
  To* write = static_cast<To*>(to);
  for (int64_t c = 0; c < channels; ++c, read += pixels, write += pixels) {
    const decltype(decode(*read)) factor = factors[c * stride];
    for (int64_t i = 0; i < pixels; ++i) write[i] = encode<To>(decode(read[i]) * factor);
  }
}

using Multiply = void (*)(const void*, void*, int64_t, int64_t, const float*, int64_t);

Multiply multiply_for(DType from, DType to) {
  switch (to) {
    case DType::kFloat64:
      return &multiply<double, double>;
    case DType::kBFloat16:
      return from == to ? &multiply<BFloat16, BFloat16> : &multiply<float, BFloat16>;
    case DType::kFloat16:
      return from == to ? &multiply<Float16, Float16> : &multiply<float, Float16>;
    default:
      return &multiply<float, float>;
  }
}

}  // namespace

Gather::Gather(const Params& params) : params_(params) {
  const PatchGrid& grid = params_.grid;
  const int64_t last_rows = grid.rows - (grid.patch_rows() - 1) * grid.scale;
  const int64_t last_cols = grid.cols - (grid.patch_cols() - 1) * grid.scale;
  whole_ = units(grid.scale, grid.scale);
  if (last_rows < grid.scale) bottom_ = units(last_rows, grid.scale);
  if (last_cols < grid.scale) right_ = units(grid.scale, last_cols);
  if (last_rows < grid.scale && last_cols < grid.scale) corner_ = units(last_rows, last_cols);
}

Gather::Units Gather::units(int64_t rows_inside, int64_t cols_inside) const {
  const PatchGrid& grid = params_.grid;
  const auto& stride = params_.strides;
  // A repeated last column is no run of neighbours, so it is copied element by element.
  const int64_t element_size = size_of(params_.from), run_bytes = grid.p * element_size;
  const bool in_runs = cols_inside == grid.scale && stride[6] == 1 && is_copied_at_once(run_bytes);
  const int64_t step = in_runs ? grid.p : 1;

  Units result;
  result.bytes = step * element_size;
  result.offsets.reserve(grid.features() / step);
  for (int64_t c = 0; c < grid.channels; ++c) {
    for (int64_t y = 0; y < grid.side(); ++y) {
      const int64_t pixel_row = std::min(y, rows_inside * grid.p - 1);
      for (int64_t x = 0; x < grid.side(); x += step) {
        const int64_t pixel_col = std::min(x, cols_inside * grid.p - 1);
        const int64_t elements = pixel_row / grid.p * stride[2] + pixel_col / grid.p * stride[3] +
                                 c * stride[4] + pixel_row % grid.p * stride[5] +
                                 pixel_col % grid.p * stride[6];
        result.offsets.push_back(elements * element_size);
      }
    }
  }
  return result;
}

void Gather::copy(const PatchPosition& at, char* to) const {
  const auto& stride = params_.strides;
  const bool low = at.rows_inside < params_.grid.scale;
  const bool narrow = at.cols_inside < params_.grid.scale;
  const Units& units = low ? (narrow ? corner_ : bottom_) : (narrow ? right_ : whole_);
  const int64_t origin =
      at.sample * stride[0] + at.frame * stride[1] + at.row * stride[2] + at.col * stride[3];
  copy_units(units.bytes, units.offsets,
             static_cast<const char*>(params_.cells) + origin * size_of(params_.from), to);
}

void Gather::run(int64_t first_patch, int64_t last_patch) const {
  const PatchGrid& grid = params_.grid;
  const Factors& factors = params_.factors;
  const int64_t row_bytes = grid.features() * size_of(params_.to);
  char* patch = static_cast<char*>(params_.patches) + first_patch * row_bytes;
  if (factors.data == nullptr) {
    for (int64_t index = first_patch; index < last_patch; ++index, patch += row_bytes) {
      copy(PatchPosition(grid, index), patch);
    }
    return;
  }
  const Multiply multiply = multiply_for(params_.from, params_.to);
  const auto copied = std::make_unique<double[]>(  // aligned for every dtype
      static_cast<size_t>(grid.features() * size_of(params_.from) / 8 + 1));
  for (int64_t index = first_patch; index < last_patch; ++index, patch += row_bytes) {
    const PatchPosition at(grid, index);
    copy(at, reinterpret_cast<char*>(copied.get()));
    multiply(copied.get(), patch, grid.channels, grid.side() * grid.side(),
             factors.data + at.sample * factors.sample_stride, factors.channel_stride);
  }
}

}  // namespace ddit::kernels::patch_embed
