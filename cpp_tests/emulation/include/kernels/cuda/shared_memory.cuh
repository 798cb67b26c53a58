// The twin of csrc/kernels/cuda/shared_memory.cuh: the same functions, on the fibers of the emulation.
#pragma once

#include "device_builtins.h"

namespace ddit::kernels::cuda {

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(ddit_emulation::dynamic_shared_memory());
}

template <class T>
T& block_shared() {
  static const char key = 0;
  return *static_cast<T*>(ddit_emulation::shared_memory(&key, sizeof(T)));
}

template <class T>
T* global_pointer(T* pointer) {
  return pointer;
}

}  // namespace ddit::kernels::cuda
