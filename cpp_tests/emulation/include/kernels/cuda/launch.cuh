// The twin of csrc/kernels/cuda/launch.cuh: the same functions, on the fibers of the emulation.
#pragma once

#include <cstddef>
#include <cstring>

#include "device_builtins.h"

namespace ddit::kernels::cuda {

constexpr int kSuccess = 0;
constexpr int kInvalidConfiguration = 9;

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
           void* /*stream*/, const Arguments&... arguments) {
  ddit_emulation::run_grid(grid, block, dynamic_shared_bytes,
                           [&] { kernel(static_cast<Parameters>(arguments)...); });
  return kSuccess;
}

// Few, so that tiles made for many blocks are chosen at sizes that can be emulated.
inline int multiprocessors() { return 2; }

inline int zero_async(void* memory, size_t bytes, void* /*stream*/) {
  std::memset(memory, 0, bytes);
  return kSuccess;
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(ddit_emulation::dynamic_shared_memory());
}

template <class T>
T& block_shared() {
  static const char key = 0;
  return *static_cast<T*>(ddit_emulation::shared_memory(&key, sizeof(T)));
}

}  // namespace ddit::kernels::cuda
