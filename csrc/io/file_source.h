// The bytes of a file, read where they lie: on disk or in memory.
#pragma once

#include <cstdint>
#include <string>

namespace ddit::io {

class FileSource {
 public:
  // Opens a regular file; FileError names what else is there, or what the system says.
  explicit FileSource(const std::string& path);
  FileSource(std::string bytes, std::string name);
  ~FileSource();
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }

  // Copies [offset, offset + bytes) to `out`. FileError where the file ends before that.
  void read(uint64_t offset, void* out, uint64_t bytes) const;

 private:
  std::string name_;
  std::string held_;
  int descriptor_ = -1;  // -1: the bytes are in held_
  uint64_t size_ = 0;
};

// A whole file as text. FileError where it is longer than `most` bytes, which it isn't read for then.
std::string read_text(const std::string& path, uint64_t most);

}  // namespace ddit::io
