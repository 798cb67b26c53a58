#include "io/file_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "ddit_ext/safetensors.h"

namespace ddit::io {

FileSource::FileSource(const std::string& path) : name_(path) {
  // Not blocking: a pipe would wait for a writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) throw FileError(path + ": cannot be opened: " + std::strerror(errno));
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw FileError(path + ": expected a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

FileSource::FileSource(std::string bytes, std::string name)
    : name_(std::move(name)), held_(std::move(bytes)), size_(held_.size()) {}

FileSource::~FileSource() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileSource::read(uint64_t offset, void* out, uint64_t bytes) const {
  if (offset > size_ || bytes > size_ - offset)
    throw FileError(name_ + ": is truncated: expected at least " + std::to_string(bytes) +
                    " bytes from byte " + std::to_string(offset) + " on, the file has " +
                    std::to_string(size_));
  auto* to = static_cast<char*>(out);
  if (descriptor_ < 0) {
    if (bytes > 0) std::memcpy(to, held_.data() + offset, bytes);
    return;
  }
  while (bytes > 0) {
    constexpr uint64_t kMost = uint64_t{1} << 30;  // a read takes no more than 2 GiB
    const ssize_t got = ::pread(descriptor_, to, std::min(bytes, kMost), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(name_ + ": cannot be read: " + std::strerror(errno));
    if (got == 0)
      throw FileError(name_ + ": was truncated while it was read, at byte " + std::to_string(offset));
    to += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
}

std::string read_text(const std::string& path, uint64_t most) {
  const FileSource source(path);
  if (source.size() > most)
    throw FileError(path + ": expected at most " + std::to_string(most) + " bytes, the file has " +
                    std::to_string(source.size()));
  std::string text(source.size(), '\0');
  source.read(0, text.data(), text.size());
  return text;
}

}  // namespace ddit::io
