#include "fibers.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "order.h"
#include "stacks.h"

namespace ddit_emulation {
namespace {

constexpr unsigned kMostThreads = 1024;
// Beyond these a block is taken to go round in circles.
constexpr unsigned long kMostBarriers = 100'000, kMostWarpOperations = 20'000'000;

enum class State : unsigned char { kReady, kAtBarrier, kAtWarp, kDone };

struct Thread {
  void* stack_pointer;
  uint3 index;
  State state;
  // Where it waits at a barrier
  const char* file;
  int line;
  // What it waits for in a warp operation
  WarpOperation operation;
  unsigned mask;
  uint64_t value;
};

struct Warp {
  unsigned ready = 0;                     // lanes that can run
  std::array<uint64_t, kWarp> brought{};  // by the lanes that were let through last
};

struct SharedMemory {
  const void* key;
  Memory memory;
};

struct Block {
  uint3 index{};
  bool running = false;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  size_t stopped = 0;  // threads at a barrier or done
  unsigned long barriers = 0, warp_operations = 0;
  Memory dynamic_shared;
  std::vector<SharedMemory> shared;
};

struct Grid {
  const std::function<void()>& kernel;
  Order order{};
  std::vector<Block> blocks{};  // those under way
  void* scheduler_stack = nullptr;
  size_t current_block = 0, current_thread = 0;
  std::string error{};
};

Grid* running = nullptr;

Block& current_block() { return running->blocks[running->current_block]; }
Thread& current_thread() { return current_block().threads[running->current_thread]; }

[[noreturn]] void stop(const std::string& what) { throw std::runtime_error("CUDA emulation: " + what); }

// ---- A thread
// ---------------------------------------------------------------------------------------------------

void leave(State state) {
  Block& block = current_block();
  Thread& thread = current_thread();
  thread.state = state;
  --block.warps[running->current_thread / kWarp].ready;
  if (state != State::kAtWarp) ++block.stopped;
  ddit_switch_stack(&thread.stack_pointer, running->scheduler_stack);
}

void thread_main() {
  running->kernel();
  leave(State::kDone);
  std::abort();  // a finished thread is never resumed
}

void resume(size_t block, size_t thread) {
  Grid& grid = *running;
  grid.current_block = block;
  grid.current_thread = thread;
  block_index = current_block().index;
  thread_index = current_thread().index;
  ddit_switch_stack(&grid.scheduler_stack, current_thread().stack_pointer);
  if (!grid.error.empty()) stop(grid.error);
}

// ---- A warp
// -------------------------------------------------------------------------------------------------------

// Lets the lanes go on whose whole group has arrived at one operation: one group at a time, so that all its
// lanes have read `brought` before the next group is let through.
void release_group(Block& block, size_t warp_index) {
  Thread* lanes = block.threads.data() + warp_index * kWarp;
  Warp& warp = block.warps[warp_index];
  for (int first = 0; first < kWarp; ++first) {
    if (lanes[first].state != State::kAtWarp) continue;
    const unsigned mask = lanes[first].mask;
    bool all = true;
    for (int l = 0; l < kWarp && all; ++l) {
      if (!(mask >> l & 1)) continue;
      if (lanes[l].state == State::kDone) {
        stop("lane " + std::to_string(l) + " of warp " + std::to_string(warp_index) +
             " has left the kernel but is in the mask of a warp operation");
      }
      all = lanes[l].state == State::kAtWarp && lanes[l].mask == mask;
      if (all && lanes[l].operation != lanes[first].operation) {
        stop("lanes of warp " + std::to_string(warp_index) + " meet in different warp operations");
      }
    }
    if (!all) continue;
    if (++block.warp_operations > kMostWarpOperations) stop("endless loop around a warp operation");
    for (int l = 0; l < kWarp; ++l) {
      const bool here = mask >> l & 1;
      warp.brought[static_cast<size_t>(l)] = here ? lanes[l].value : kNoValue;
      if (!here) continue;
      lanes[l].state = State::kReady;
      ++warp.ready;
    }
    return;
  }
}

// Every lane that can run runs until it waits.
void step(size_t block_slot, size_t warp_index) {
  Block& block = running->blocks[block_slot];
  for (const unsigned lane : running->order.of(kWarp)) {
    const size_t thread = warp_index * kWarp + lane;
    if (block.threads[thread].state == State::kReady) resume(block_slot, thread);
  }
  if (block.warps[warp_index].ready == 0) release_group(block, warp_index);
}

// ---- A block
// ------------------------------------------------------------------------------------------------------

void start(Block& block, size_t slot, const Stacks& stacks, uint3 index, size_t dynamic_shared_bytes) {
  block.index = index;
  block.running = true;
  block.stopped = block.barriers = block.warp_operations = 0;
  block.shared.clear();
  block.dynamic_shared = uninitialised(dynamic_shared_bytes);
  for (size_t i = 0; i < block.threads.size(); ++i) {
    block.threads[i].stack_pointer = stacks.entering(slot * kMostThreads + i, thread_main);
    block.threads[i].state = State::kReady;
  }
  for (Warp& warp : block.warps) warp.ready = kWarp;
}

// All threads of the block have stopped: opens their barrier, or ends the block.
void open_barrier(Block& block) {
  const auto is = [](State state) { return [state](const Thread& thread) { return thread.state == state; }; };
  const auto first = std::find_if(block.threads.begin(), block.threads.end(), is(State::kAtBarrier));
  if (first == block.threads.end()) {
    block.running = false;
    return;
  }
  const std::string line = std::to_string(first->line);
  if (std::any_of(block.threads.begin(), block.threads.end(), is(State::kDone))) {
    stop("a barrier, line " + line + ", that some threads have left the kernel without");
  }
  for (const Thread& thread : block.threads) {
    if (thread.line != first->line || std::strcmp(thread.file, first->file) != 0) {
      stop("threads of a block meet at different barriers, lines " + line + " and " +
           std::to_string(thread.line));
    }
  }
  if (++block.barriers > kMostBarriers) stop("endless loop around the barrier in line " + line);
  block.stopped = 0;
  for (Thread& thread : block.threads) thread.state = State::kReady;
  for (Warp& warp : block.warps) warp.ready = kWarp;
}

// ---- A grid
// -------------------------------------------------------------------------------------------------------

uint3 position(unsigned linear, dim3 shape) {
  return {linear % shape.x, linear / shape.x % shape.y, linear / shape.x / shape.y};
}

// Runs the first warp, in `order`, that can run. False where none can.
bool run_some_warp(std::vector<unsigned>& order, size_t warps_per_block) {
  Grid& grid = *running;
  for (const unsigned i : order) {
    const size_t slot = i / warps_per_block, warp = i % warps_per_block;
    Block& block = grid.blocks[slot];
    if (!block.running || block.warps[warp].ready == 0) continue;
    // In a random order a warp may be overtaken at each of its waits, but mostly is not: one that gets far
    // ahead of the others, or stays far behind, shows more than many that keep step.
    do {
      step(slot, warp);
    } while (block.warps[warp].ready > 0 && !grid.order.random());
    if (grid.order.random() && grid.order.once_in(16)) grid.order.again(order);
    if (block.stopped == block.threads.size()) open_barrier(block);
    return true;
  }
  return false;
}

void run_blocks(dim3 grid_shape, size_t dynamic_shared_bytes, const Stacks& stacks) {
  Grid& grid = *running;
  const size_t warps_per_block = grid.blocks[0].warps.size();
  const std::vector<unsigned> block_order = grid.order.of(size_t{grid_shape.x} * grid_shape.y * grid_shape.z);
  std::vector<unsigned> warp_order = grid.order.of(grid.blocks.size() * warps_per_block);
  size_t next = 0;
  while (true) {
    for (size_t slot = 0; slot < grid.blocks.size() && next < block_order.size(); ++slot) {
      if (grid.blocks[slot].running) continue;
      start(grid.blocks[slot], slot, stacks, position(block_order[next++], grid_shape), dynamic_shared_bytes);
    }
    if (run_some_warp(warp_order, warps_per_block)) continue;
    if (std::any_of(grid.blocks.begin(), grid.blocks.end(),
                    [](const Block& block) { return block.running; })) {
      stop("deadlock: a barrier or a warp operation that not all threads reach");
    }
    return;
  }
}

}  // namespace

void run_grid(dim3 grid_shape, dim3 block_shape, size_t dynamic_shared_bytes,
              const std::function<void()>& kernel) {
  static std::mutex one_grid_at_a_time;
  static const Stacks stacks(Order::kMostResident * kMostThreads);
  const std::lock_guard<std::mutex> lock(one_grid_at_a_time);
  const uint64_t threads = uint64_t{block_shape.x} * block_shape.y * block_shape.z;
  const uint64_t blocks = uint64_t{grid_shape.x} * grid_shape.y * grid_shape.z;
  if (threads == 0 || threads > kMostThreads || threads % kWarp != 0) {
    stop("a block must have whole warps and at most 1024 threads, got " + std::to_string(threads));
  }
  if (blocks == 0 || blocks >= uint64_t{1} << 31 || grid_shape.y > 65535 || grid_shape.z > 65535) {
    stop("a grid of " + std::to_string(grid_shape.x) + " x " + std::to_string(grid_shape.y) + " x " +
         std::to_string(grid_shape.z) + " blocks can't be launched");
  }
  stacks.clear();
  Grid grid{kernel};
  running = &grid;
  block_size = block_shape;
  grid_size = grid_shape;
  grid.blocks.resize(grid.order.resident());
  for (Block& block : grid.blocks) {
    block.threads.resize(threads);
    block.warps.resize(threads / kWarp);
    for (unsigned i = 0; i < threads; ++i) block.threads[i].index = position(i, block_shape);
  }
  run_blocks(grid_shape, dynamic_shared_bytes, stacks);
}

void block_barrier(const char* file, int line) {
  Thread& thread = current_thread();
  thread.file = file;
  thread.line = line;
  leave(State::kAtBarrier);
}

const uint64_t* warp_exchange(WarpOperation operation, unsigned mask, uint64_t value) {
  Thread& thread = current_thread();
  if (!(mask >> (running->current_thread % kWarp) & 1)) {
    fail("a lane calls a warp operation with a mask that leaves it out");
  }
  thread.operation = operation;
  thread.mask = mask;
  thread.value = value;
  leave(State::kAtWarp);
  return current_block().warps[running->current_thread / kWarp].brought.data();
}

int linear_thread() { return static_cast<int>(running->current_thread); }

void* dynamic_shared_memory() { return current_block().dynamic_shared.get(); }

void* shared_memory(const void* key, size_t bytes) {
  std::vector<SharedMemory>& shared = current_block().shared;
  for (const SharedMemory& known : shared) {
    if (known.key == key) return known.memory.get();
  }
  shared.push_back({key, uninitialised(bytes)});
  return shared.back().memory.get();
}

void fail(const std::string& what) {
  const auto show = [](uint3 i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
  };
  running->error = what + " (block " + show(block_index) + ", thread " + show(thread_index) + ")";
  leave(State::kDone);
  std::abort();
}

}  // namespace ddit_emulation
