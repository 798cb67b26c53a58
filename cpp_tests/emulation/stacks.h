// The memory that threads and blocks of an emulated grid live in.
#pragma once

#include <cstddef>
#include <memory>

// Keeps on the old stack the registers that a function call must keep, stores its pointer in `save`, and goes
// on where `load` was saved.
extern "C" void ddit_switch_stack(void** save, void* load);

namespace ddit_emulation {

struct Free {
  void operator()(void* memory) const;
};
using Memory = std::unique_ptr<void, Free>;

// Filled with a pattern. Exactly this size, so that AddressSanitizer sees an access beyond it.
Memory uninitialised(size_t bytes);

class Stacks {
 public:
  explicit Stacks(size_t count);

  // The stack pointer with which ddit_switch_stack enters `function`, which must never return.
  void* entering(size_t index, void (*function)()) const;

  // Forgets the frames that a stopped grid has left.
  void clear() const;

 private:
  size_t bytes_;
  char* memory_;
};

}  // namespace ddit_emulation
