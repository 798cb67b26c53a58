// acceleration_quantiles: the arguments of the kernel, without any torch type.
//
// The four latents are `cells` views [B, F, h, w, C, p, p]: sample, frame, row and column of the base patch
// grid, channel, row and column inside a base patch. Strides are in elements and free.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace ddit::kernels::acceleration_quantiles {

using kernels::DType;

constexpr int kLatents = 4;  // a third difference needs four latents
constexpr int kCellsDims = 7;

using CellsShape = std::array<int64_t, kCellsDims>;

struct CellsView {
  const void* data = nullptr;
  CellsShape strides{};
};

struct Params {
  std::array<CellsView, kLatents> latents;  // the newest first
  CellsShape sizes{};                       // shared by the four latents
  DType dtype = DType::kFloat32;
  const int64_t* scales = nullptr;  // [num_scales], each >= 1; any order, repeats allowed
  int64_t num_scales = 0;
  double quantile = 0.0;    // in [0, 1]
  float* output = nullptr;  // [B, num_scales], contiguous
};

// What is wrong with the arguments that are no latents, or "" if nothing is; one wording for every caller.
std::string argument_error(const std::vector<int64_t>& scales, double quantile);

// Calls body(first, last) on disjoint pieces of [begin, end), none smaller than `grain` if it can be helped,
// possibly from several threads, and returns when all are done.
using RangeBody = std::function<void(int64_t first, int64_t last)>;
using ParallelFor = std::function<void(int64_t begin, int64_t end, int64_t grain, const RangeBody& body)>;

// For callers without a thread pool.
inline void serial_for(int64_t begin, int64_t end, int64_t /*grain*/, const RangeBody& body) {
  if (begin < end) body(begin, end);
}

// The caller has checked the arguments: sizes > 0 (but B may be 0), num_scales > 0, scales >= 1, quantile in
// [0, 1]. The result does not depend on how `parallel_for` splits the work.
void acceleration_quantiles_cpu(const Params& params, const ParallelFor& parallel_for);

}  // namespace ddit::kernels::acceleration_quantiles
