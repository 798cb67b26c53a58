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

inline void copy_async_16(void* shared, const void* global, int valid_bytes = 16) {
  ddit_emulation::copy_async(shared, global, 16, valid_bytes);
}

inline void commit_copies() { ddit_emulation::commit_copies(); }

template <int kPending>
void wait_copies() {
  ddit_emulation::wait_copies(kPending);
}

}  // namespace ddit::kernels::cuda
