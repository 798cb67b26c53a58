// A strict JSON reader without a tree: the caller asks for what has to come next. Nothing is kept but what
// the caller keeps, nesting is bounded, and errors name file, field and byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace ddit::io {

class JsonReader {
 public:
  static constexpr size_t kDeepest = 64;

  // `text` has to outlive the reader; `source` stands for it in errors. FileError where it isn't UTF-8.
  JsonReader(std::string_view text, std::string source);

  // Reads an object; member(key) has to read that key's value. A key that comes twice is refused.
  template <class Member>
  void object(const Member& member) {
    open('{', "an object");
    std::set<std::string> keys;
    while (more('}')) {
      const size_t here = at_;
      std::string key = string();
      if (!keys.insert(key).second) fail_at(here, "the key " + quoted(key) + " comes twice");
      expect(':');
      path_.push_back("." + key);
      member(key);
      path_.pop_back();
    }
    --depth_;
  }

  // Reads an array; item(index) has to read that item.
  template <class Item>
  void array(const Item& item) {
    open('[', "an array");
    for (size_t index = 0; more(']'); ++index) {
      path_.push_back("[" + std::to_string(index) + "]");
      item(index);
      path_.pop_back();
    }
    --depth_;
  }

  std::string string();
  int64_t integer();  // no fraction, no exponent, fits 64 bits
  double number();    // finite
  bool boolean();
  bool null();  // whether a null came, which is consumed then

  // Reads any value and returns its text.
  std::string_view skip();

  // The text of the value that `read` reads.
  template <class Read>
  std::string_view between(const Read& read) {
    skip_space();
    const size_t begin = at_;
    read();
    return text_.substr(begin, at_ - begin);
  }

  // FileError unless only white space is left.
  void end();

  // FileError that names the field being read.
  [[noreturn]] void fail(const std::string& what) const { fail_at(at_, what); }

  static std::string quoted(std::string_view text);  // shortened, for errors

 private:
  [[noreturn]] void fail_at(size_t byte, const std::string& what) const;
  void open(char bracket, const char* what);
  bool more(char close);
  void expect(char wanted);
  void skip_space();
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool literal(std::string_view word);
  std::string_view number_text();
  uint32_t hex4();

  std::string_view text_;
  std::string source_;
  size_t at_ = 0;
  size_t depth_ = 0;
  bool first_ = false;  // the next item of the array or object that was just opened is its first
  std::vector<std::string> path_;
};

}  // namespace ddit::io
