#include "kernels/cuda/async_copy.cuh"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

namespace ddit_emulation {
namespace {

struct Copy {
  void* target;
  const void* source;
  int bytes, valid_bytes;

  void run() const {
    std::memset(target, 0, static_cast<size_t>(bytes));
    std::memcpy(target, source, static_cast<size_t>(valid_bytes));
  }
};

using Group = std::vector<Copy>;

struct ThreadCopies {
  Group open;
  std::deque<Group> closed;
  unsigned long block = 0;  // that they belong to
};

ThreadCopies& mine() {
  static std::vector<ThreadCopies> all(4 * 1024);
  const ThreadPlace thread = thread_place();
  ThreadCopies& copies = all[thread.place];
  if (copies.block != thread.block) copies = ThreadCopies{{}, {}, thread.block};
  return copies;
}

bool eager() {
  const char* text = std::getenv("DDIT_EMULATION_COPIES");
  const std::string when = text ? text : "late";
  if (when != "late" && when != "eager") fail("DDIT_EMULATION_COPIES must be late or eager, got " + when);
  return when == "eager";
}

}  // namespace

void copy_async(void* target, const void* source, int bytes, int valid_bytes) {
  const auto mask = static_cast<uintptr_t>(bytes - 1);
  if (reinterpret_cast<uintptr_t>(target) & mask || reinterpret_cast<uintptr_t>(source) & mask) {
    fail("an asynchronous copy of " + std::to_string(bytes) + " bytes is not aligned to them");
  }
  if (valid_bytes < 0 || valid_bytes > bytes) fail("an asynchronous copy has more valid bytes than bytes");
  const Copy copy{target, source, bytes, valid_bytes};
  if (eager()) return copy.run();
  mine().open.push_back(copy);
}

void commit_copies() {
  ThreadCopies& copies = mine();
  copies.closed.push_back(std::move(copies.open));
  copies.open.clear();
}

void wait_copies(int pending) {
  ThreadCopies& copies = mine();
  while (static_cast<int>(copies.closed.size()) > pending) {
    for (const Copy& copy : copies.closed.front()) copy.run();
    copies.closed.pop_front();
  }
}

}  // namespace ddit_emulation
