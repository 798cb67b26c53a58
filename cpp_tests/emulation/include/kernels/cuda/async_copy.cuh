// The twin of csrc/kernels/cuda/async_copy.cuh. DDIT_EMULATION_COPIES says when a copy takes place:
//   late (default)  at the wait: a missing wait shows
//   eager           at once: memory that is overwritten while others still read it shows
#pragma once

#include "device_builtins.h"

namespace ddit_emulation {

void copy_async(void* target, const void* source, int bytes, int valid_bytes);
void commit_copies();
void wait_copies(int pending);

}  // namespace ddit_emulation

namespace ddit::kernels::cuda {

template <int kBytes>
void copy_async(void* shared, const void* global, int valid_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what cp.async can copy");
  ddit_emulation::copy_async(shared, global, kBytes, valid_bytes);
}

inline void commit_copies() { ddit_emulation::commit_copies(); }

template <int kPending>
void wait_copies() {
  ddit_emulation::wait_copies(kPending);
}

}  // namespace ddit::kernels::cuda
