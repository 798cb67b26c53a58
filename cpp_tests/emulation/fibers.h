// Runs one CUDA grid on the calling thread, with a fiber (a stack of its own) for each CUDA thread. What the
// CUDA built-ins of device_builtins.h need from it stands here.
//
// Who runs when, from the environment at every launch:
//   DDIT_EMULATION_ORDER   forward (default), reverse, or a number, the seed of a random order: of blocks,
//   warps and lanes DDIT_EMULATION_BLOCKS  how many blocks are under way at a time, 1 (default) to 4
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace ddit_emulation {

constexpr int kWarp = 32;

// The thread that runs at the moment.
inline uint3 thread_index, block_index;
inline dim3 block_size, grid_size;

// Runs `kernel` once for each thread of the grid. std::runtime_error where the kernel breaks a rule of CUDA:
// a barrier that not all threads reach, a warp operation without one of its lanes, and the like.
void run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, const std::function<void()>& kernel);

// ---- Below: called from inside a kernel
// ---------------------------------------------------------------------

// __syncthreads. The place is compared: threads that meet at different barriers are an error.
void block_barrier(const char* file, int line);

enum class WarpOperation : unsigned char { kSync, kShuffle, kVote, kReduce };

// Waits for the lanes in `mask`, which must all call the same operation, and returns the values that they
// brought: [kWarp], valid until the caller's next operation. A lane outside the mask has brought kNoValue.
constexpr uint64_t kNoValue = 0xdeadbeefdeadbeefULL;
const uint64_t* warp_exchange(WarpOperation operation, unsigned mask, uint64_t value);

// Index of the calling thread in its block, x fastest.
int linear_thread();

// Memory of the block at hand, filled with a pattern when the block starts: reading what nobody wrote shows.
void* dynamic_shared_memory();
void* shared_memory(const void* key, size_t bytes);

// Stops the grid: run_grid throws.
[[noreturn]] void fail(const std::string& what);

}  // namespace ddit_emulation
