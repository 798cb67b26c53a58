#include "stacks.h"

#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <cstdlib>
#include <cstring>
#include <new>

asm(R"(.text
.globl ddit_switch_stack
.type ddit_switch_stack,@function
ddit_switch_stack:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.size ddit_switch_stack,.-ddit_switch_stack
)");

namespace ddit_emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // only touched pages take memory
constexpr size_t kSavedRegisters = 6;
constexpr unsigned char kUninitialised = 0xcd;

}  // namespace

void Free::operator()(void* memory) const { std::free(memory); }

Memory uninitialised(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes) != 0) throw std::bad_alloc();
  if (bytes) std::memset(memory, kUninitialised, bytes);
  return Memory(memory);
}

Stacks::Stacks(size_t count) : bytes_(count * kStackBytes) {
  void* mapped =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(mapped);
}

void* Stacks::entering(size_t index, void (*function)()) const {
  // As if ddit_switch_stack had been called in front of `function`: saved registers, then where to return to.
  // The ABI wants the stack pointer 8 bytes off a multiple of 16 where a function begins.
  void** return_address = reinterpret_cast<void**>(memory_ + (index + 1) * kStackBytes) - 2;
  *return_address = reinterpret_cast<void*>(function);
  std::memset(return_address - kSavedRegisters, 0, kSavedRegisters * sizeof(void*));
  return return_address - kSavedRegisters;
}

void Stacks::clear() const {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(memory_, bytes_);
#endif
}

}  // namespace ddit_emulation
