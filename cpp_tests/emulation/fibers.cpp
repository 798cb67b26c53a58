#include "fibers.h"

#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

// void ddit_switch_stack(void** save, void* load): keeps the registers that a call must keep on the old
// stack, and goes on where `load` was saved.
asm(R"(.text
.type ddit_switch_stack,@function
ddit_switch_stack:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.size ddit_switch_stack,.-ddit_switch_stack
)");
extern "C" void ddit_switch_stack(void** save, void* load);

namespace ddit_emulation {
namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024;  // touched pages only take memory
constexpr size_t kSavedRegisters = 6;
constexpr unsigned char kUninitialised = 0xcd;

enum class State : unsigned char { kReady, kAtBarrier, kAtWarp, kDone };

struct Thread {
  void* stack_pointer;
  uint3 index;
  State state;
  // Of a barrier
  const char* file;
  int line;
  // Of a warp operation
  WarpOperation operation;
  unsigned mask;
  uint64_t value;
};

struct Stacks {
  char* memory;
  Stacks() {
    void* mapped = mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    memory = static_cast<char*>(mapped);
  }

  // A grid that was stopped has left its frames on the stacks.
  void clear() const {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(memory, kMostThreads * kStackBytes);
#endif
  }
};

// Blocks, warps and lanes in the order that the environment asks for.
class Order {
 public:
  Order() {
    const char* text = std::getenv("DDIT_EMULATION_ORDER");
    const std::string order = text ? text : "forward";
    if (order == "reverse") {
      reverse_ = true;
    } else if (order != "forward" && !order.empty()) {
      if (order.find_first_not_of("0123456789") != std::string::npos) {
        throw std::runtime_error("DDIT_EMULATION_ORDER must be forward, reverse or a number, got " + order);
      }
      seeded_ = true;
      random_.seed(static_cast<unsigned>(std::stoul(order)));
    }
  }

  bool seeded() const { return seeded_; }

  const std::vector<int>& of(int count, std::vector<int>& order) {
    order.resize(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    if (reverse_) std::reverse(order.begin(), order.end());
    if (seeded_) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

 private:
  bool reverse_ = false;
  bool seeded_ = false;
  std::mt19937 random_;
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

// Its exact size, so that AddressSanitizer sees an access beyond it.
Memory uninitialised(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes) != 0) throw std::bad_alloc();
  std::memset(memory, kUninitialised, bytes);
  return Memory(memory);
}

struct SharedArray {
  const void* key;
  Memory memory;
};

struct Grid {
  const std::function<void()>& kernel;
  Order order{};
  std::vector<Thread> threads{};
  std::vector<std::array<uint64_t, kWarp>>
      brought{};  // [warp][lane], of the operation that was let through last
  Memory dynamic_shared{};
  std::vector<SharedArray> shared{};
  void* scheduler_stack = nullptr;
  int current = 0;
  std::string error{};
  std::vector<int> lane_order{};
};

Grid* running = nullptr;
unsigned long started_blocks = 0;

Thread& current_thread() { return running->threads[static_cast<size_t>(running->current)]; }

void leave(State state) {
  Thread& thread = current_thread();
  thread.state = state;
  ddit_switch_stack(&thread.stack_pointer, running->scheduler_stack);
  // Another thread of the block has run meanwhile.
  thread_index = thread.index;
}

void thread_main() {
  running->kernel();
  leave(State::kDone);
  std::abort();  // a finished thread is never resumed
}

std::string place() {
  const auto show = [](uint3 i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
  };
  return "block " + show(block_index) + ", thread " + show(thread_index);
}

void check_no_error() {
  if (!running->error.empty()) throw std::runtime_error("CUDA emulation: " + running->error);
}

[[noreturn]] void stop(const std::string& what) { throw std::runtime_error("CUDA emulation: " + what); }

void resume(int index) {
  Grid& grid = *running;
  Thread& thread = grid.threads[static_cast<size_t>(index)];
  grid.current = index;
  thread_index = thread.index;
  ddit_switch_stack(&grid.scheduler_stack, thread.stack_pointer);
  check_no_error();
}

// Lets the lanes of a warp go on whose whole group has arrived at one operation.
bool release_groups(int warp) {
  Thread* lanes = running->threads.data() + warp * kWarp;
  for (int first = 0; first < kWarp; ++first) {
    if (lanes[first].state != State::kAtWarp) continue;
    const unsigned mask = lanes[first].mask;
    bool all = true;
    for (int l = 0; l < kWarp && all; ++l) {
      if (!(mask >> l & 1)) continue;
      if (lanes[l].state == State::kDone) {
        stop("lane " + std::to_string(l) + " of warp " + std::to_string(warp) +
             " has left the kernel but is in the mask of a warp operation");
      }
      all = lanes[l].state == State::kAtWarp && lanes[l].mask == mask;
      if (all && lanes[l].operation != lanes[first].operation) {
        stop("lanes of warp " + std::to_string(warp) + " meet in different warp operations");
      }
    }
    if (!all) continue;
    auto& values = running->brought[static_cast<size_t>(warp)];
    for (int l = 0; l < kWarp; ++l) {
      const bool here = mask >> l & 1;
      values[static_cast<size_t>(l)] = here ? lanes[l].value : kNoValue;
      if (here) lanes[l].state = State::kReady;
    }
    // Every lane of the group reads `values` before another group of this warp is let through.
    return true;
  }
  return false;
}

// Every lane of a warp that can run runs until it waits; then a group may be let through.
bool step(int warp) {
  bool ran = false;
  for (const int lane : running->order.of(kWarp, running->lane_order)) {
    const int index = warp * kWarp + lane;
    if (running->threads[static_cast<size_t>(index)].state != State::kReady) continue;
    resume(index);
    ran = true;
  }
  return release_groups(warp) || ran;
}

// True when the block is done.
bool pass_barrier() {
  const Thread* waiting = nullptr;
  size_t stopped = 0;
  for (Thread& thread : running->threads) {
    if (thread.state == State::kDone) ++stopped;
    if (thread.state != State::kAtBarrier) continue;
    ++stopped;
    if (waiting && (waiting->line != thread.line || std::strcmp(waiting->file, thread.file) != 0)) {
      stop("threads of a block meet at different barriers, lines " + std::to_string(waiting->line) + " and " +
           std::to_string(thread.line));
    }
    waiting = &thread;
  }
  if (stopped != running->threads.size())
    stop("deadlock: a barrier or warp operation that not all threads reach");
  if (!waiting) return true;
  if (std::any_of(running->threads.begin(), running->threads.end(),
                  [](const Thread& thread) { return thread.state == State::kDone; })) {
    stop("a barrier, line " + std::to_string(waiting->line) +
         ", that some threads have left the kernel without");
  }
  for (Thread& thread : running->threads) thread.state = State::kReady;
  return false;
}

void start_block(const Stacks& stacks, size_t dynamic_shared_bytes) {
  Grid& grid = *running;
  ++started_blocks;
  grid.shared.clear();
  grid.dynamic_shared = uninitialised(dynamic_shared_bytes);
  for (size_t i = 0; i < grid.threads.size(); ++i) {
    // A 16-byte aligned stack whose top looks as if ddit_switch_stack had been called by thread_main's
    // caller.
    void** top = reinterpret_cast<void**>(stacks.memory + (i + 1) * kStackBytes) - 2;
    *top = reinterpret_cast<void*>(thread_main);
    std::memset(top - kSavedRegisters, 0, kSavedRegisters * sizeof(void*));
    grid.threads[i].stack_pointer = top - kSavedRegisters;
    grid.threads[i].state = State::kReady;
  }
}

void run_block(int warps) {
  std::vector<int> warp_order;
  do {
    bool progress = true;
    while (progress) {
      progress = false;
      for (const int warp : running->order.of(warps, warp_order)) {
        // With a seed, warps overtake each other at every warp operation, not at barriers alone.
        while (step(warp)) {
          progress = true;
          if (running->order.seeded()) break;
        }
      }
    }
  } while (!pass_barrier());
}

}  // namespace

void run_grid(dim3 grid_shape, dim3 block_shape, size_t dynamic_shared_bytes,
              const std::function<void()>& kernel) {
  static std::mutex one_grid_at_a_time;
  static const Stacks stacks;
  const std::lock_guard<std::mutex> lock(one_grid_at_a_time);
  const uint64_t count = uint64_t{block_shape.x} * block_shape.y * block_shape.z;
  const uint64_t blocks = uint64_t{grid_shape.x} * grid_shape.y * grid_shape.z;
  if (count == 0 || count > kMostThreads || count % kWarp != 0) {
    stop("a block must have whole warps and at most 1024 threads, got " + std::to_string(count));
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
  grid.threads.resize(count);
  grid.brought.resize(count / kWarp);
  for (unsigned i = 0; i < count; ++i) {
    grid.threads[i].index = {i % block_shape.x, i / block_shape.x % block_shape.y,
                             i / block_shape.x / block_shape.y};
  }
  std::vector<int> block_order;
  for (const int block : grid.order.of(static_cast<int>(blocks), block_order)) {
    const unsigned b = static_cast<unsigned>(block);
    block_index = {b % grid_shape.x, b / grid_shape.x % grid_shape.y, b / grid_shape.x / grid_shape.y};
    start_block(stacks, dynamic_shared_bytes);
    run_block(static_cast<int>(count / kWarp));
  }
}

void block_barrier(const char* file, int line) {
  Thread& thread = current_thread();
  thread.file = file;
  thread.line = line;
  leave(State::kAtBarrier);
}

const uint64_t* warp_exchange(WarpOperation operation, unsigned mask, uint64_t value) {
  Thread& thread = current_thread();
  if (!(mask >> (running->current % kWarp) & 1))
    fail("a lane calls a warp operation with a mask that leaves it out");
  thread.operation = operation;
  thread.mask = mask;
  thread.value = value;
  leave(State::kAtWarp);
  return running->brought[static_cast<size_t>(running->current / kWarp)].data();
}

int linear_thread() { return running->current; }

unsigned long blocks_started() { return started_blocks; }

void* dynamic_shared_memory() { return running->dynamic_shared.get(); }

void* shared_memory(const void* key, size_t bytes) {
  for (const SharedArray& array : running->shared) {
    if (array.key == key) return array.memory.get();
  }
  running->shared.push_back({key, uninitialised(bytes)});
  return running->shared.back().memory.get();
}

void fail(const std::string& what) {
  running->error = what + " (" + place() + ")";
  leave(State::kDone);
  std::abort();
}

}  // namespace ddit_emulation
