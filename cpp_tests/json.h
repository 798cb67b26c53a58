// Just enough JSON to read cpp_tests/cases: no escapes in strings beyond \" and \\, numbers as double, true
// as the number 1, no false.
#pragma once

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ddit_test {

struct Json {
  enum class Kind { kNull, kNumber, kString, kArray, kObject } kind = Kind::kNull;
  double number = 0.0;
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> members;

  const Json& at(const std::string& key) const { return members.at(key); }
  int64_t integer(const std::string& key, int64_t fallback) const {
    const auto found = members.find(key);
    return found == members.end() ? fallback : static_cast<int64_t>(found->second.number);
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string text) : text_(std::move(text)) {}

  Json read() {
    Json value = read_value();
    skip_space();
    require(at_ == text_.size(), "the end");
    return value;
  }

 private:
  Json read_value() {
    skip_space();
    Json value;
    switch (peek()) {
      case '{':
        value.kind = Json::Kind::kObject;
        read_list('}', [&] {
          const std::string key = read_string();
          expect(':');
          value.members[key] = read_value();
        });
        return value;
      case '[':
        value.kind = Json::Kind::kArray;
        read_list(']', [&] { value.items.push_back(read_value()); });
        return value;
      case '"':
        value.kind = Json::Kind::kString;
        value.text = read_string();
        return value;
      case 'n':
        require(text_.compare(at_, 4, "null") == 0, "null");
        at_ += 4;
        return value;
      case 't':
        require(text_.compare(at_, 4, "true") == 0, "true");
        at_ += 4;
        value.kind = Json::Kind::kNumber;
        value.number = 1.0;
        return value;
      default:
        return read_number();
    }
  }

  template <class ReadItem>
  void read_list(char close, const ReadItem& read_item) {
    ++at_;
    skip_space();
    if (peek() == close) {
      ++at_;
      return;
    }
    while (true) {
      skip_space();
      read_item();
      skip_space();
      if (peek() == close) break;
      expect(',');
    }
    ++at_;
  }

  std::string read_string() {
    expect('"');
    std::string text;
    while (peek() != '"') {
      if (peek() == '\\') ++at_;
      text += peek();
      ++at_;
    }
    ++at_;
    return text;
  }

  Json read_number() {
    Json value;
    value.kind = Json::Kind::kNumber;
    char* end = nullptr;
    value.number = std::strtod(text_.c_str() + at_, &end);
    const size_t length = static_cast<size_t>(end - (text_.c_str() + at_));
    require(length > 0, "a value");
    at_ += length;
    return value;
  }

  char peek() const {
    require(at_ < text_.size(), "more text");
    return text_[at_];
  }
  void expect(char wanted) {
    skip_space();
    require(peek() == wanted, std::string(1, wanted));
    ++at_;
  }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  void require(bool condition, const std::string& wanted) const {
    if (!condition) throw std::runtime_error("JSON: expected " + wanted + " at byte " + std::to_string(at_));
  }

  std::string text_;
  size_t at_ = 0;
};

inline Json read_json_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return JsonReader(text.str()).read();
}

}  // namespace ddit_test
