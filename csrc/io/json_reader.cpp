#include "io/json_reader.h"

#include <charconv>
#include <system_error>

#include "ddit_ext/safetensors.h"
#include "io/utf8.h"

namespace ddit::io {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

JsonReader::JsonReader(std::string_view text, std::string source) : text_(text), source_(std::move(source)) {
  const size_t bad = first_bad_utf8(text_);
  if (bad != std::string_view::npos) fail_at(bad, "not UTF-8");
}

std::string JsonReader::quoted(std::string_view text) {
  constexpr size_t kLongest = 60;
  std::string shown = "\"";
  for (char c : text.substr(0, kLongest)) shown += c >= 0 && c < ' ' ? '?' : c;
  return shown + (text.size() > kLongest ? "...\"" : "\"");
}

void JsonReader::fail_at(size_t byte, const std::string& what) const {
  std::string field;
  for (const std::string& part : path_) field += part;
  if (!field.empty() && field[0] == '.') field.erase(0, 1);
  constexpr size_t kLongest = 200;
  if (field.size() > kLongest) field = field.substr(0, kLongest) + "...";
  throw FileError(source_ + ": " + (field.empty() ? "" : field + ": ") + what + ", at byte " +
                  std::to_string(byte));
}

void JsonReader::skip_space() {
  while (at_ < text_.size() &&
         (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
    ++at_;
}

void JsonReader::expect(char wanted) {
  skip_space();
  if (peek() != wanted || at_ == text_.size()) fail(std::string("expected '") + wanted + "'");
  ++at_;
}

void JsonReader::open(char bracket, const char* what) {
  skip_space();
  if (peek() != bracket) fail(std::string("expected ") + what);
  if (++depth_ > kDeepest) fail("nested more than " + std::to_string(kDeepest) + " deep");
  ++at_;
  first_ = true;
}

bool JsonReader::more(char close) {
  skip_space();
  const bool first = first_;
  first_ = false;
  if (peek() == close) {
    ++at_;
    return false;
  }
  if (!first) expect(',');
  return true;
}

uint32_t JsonReader::hex4() {
  uint32_t value = 0;
  if (text_.size() - at_ < 4) fail("expected four hexadecimal digits");
  const char* begin = text_.data() + at_;
  const auto [end, error] = std::from_chars(begin, begin + 4, value, 16);
  if (error != std::errc() || end != begin + 4) fail("expected four hexadecimal digits");
  at_ += 4;
  return value;
}

std::string JsonReader::string() {
  skip_space();
  if (peek() != '"') fail("expected a string");
  ++at_;
  std::string result;
  while (true) {
    if (at_ == text_.size()) fail("expected the end of a string");
    const char c = text_[at_++];
    if (c == '"') return result;
    if (c >= 0 && c < ' ') fail_at(at_ - 1, "a control character in a string");
    if (c != '\\') {
      result += c;
      continue;
    }
    const char escape = peek();
    ++at_;
    switch (escape) {
      case '"':
      case '\\':
      case '/':
        result += escape;
        break;
      case 'b':
        result += '\b';
        break;
      case 'f':
        result += '\f';
        break;
      case 'n':
        result += '\n';
        break;
      case 'r':
        result += '\r';
        break;
      case 't':
        result += '\t';
        break;
      case 'u': {
        const size_t here = at_;
        uint32_t code = hex4();
        if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
          at_ += 2;
          const uint32_t low = hex4();
          if (low < 0xDC00 || low > 0xDFFF) fail_at(here, "half of a surrogate pair");
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xD800 && code <= 0xDFFF) {
          fail_at(here, "half of a surrogate pair");
        }
        append_utf8(result, code);
        break;
      }
      default:
        fail_at(at_ - 1, "an unknown escape in a string");
    }
  }
}

// The text of a number by JSON's own grammar: no plus, no leading zero, digits on both sides of a point.
std::string_view JsonReader::number_text() {
  skip_space();
  const size_t begin = at_;
  const auto digits = [&] {
    if (!is_digit(peek())) fail_at(begin, "expected a number");
    while (is_digit(peek())) ++at_;
  };
  if (peek() == '-') ++at_;
  if (peek() == '0') {
    ++at_;
  } else {
    digits();
  }
  if (peek() == '.') {
    ++at_;
    digits();
  }
  if (peek() == 'e' || peek() == 'E') {
    ++at_;
    if (peek() == '+' || peek() == '-') ++at_;
    digits();
  }
  return text_.substr(begin, at_ - begin);
}

int64_t JsonReader::integer() {
  skip_space();
  const size_t begin = at_;
  const std::string_view text = number_text();
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail_at(begin, "expected a whole number of 64 bits, got " + quoted(text));
  return value;
}

double JsonReader::number() {
  skip_space();
  const size_t begin = at_;
  const std::string_view text = number_text();
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail_at(begin, "expected a number that a double can hold, got " + quoted(text));
  return value;
}

bool JsonReader::literal(std::string_view word) {
  skip_space();
  if (text_.substr(at_, word.size()) != word) return false;
  at_ += word.size();
  return true;
}

bool JsonReader::boolean() {
  if (literal("true")) return true;
  if (!literal("false")) fail("expected true or false");
  return false;
}

bool JsonReader::null() { return literal("null"); }

std::string_view JsonReader::skip() {
  skip_space();
  const size_t begin = at_;
  switch (peek()) {
    case '{':
      object([this](const std::string&) { skip(); });
      break;
    case '[':
      array([this](size_t) { skip(); });
      break;
    case '"':
      string();
      break;
    case 't':
    case 'f':
      boolean();
      break;
    case 'n':
      if (!null()) fail("expected null");
      break;
    default:
      number_text();
  }
  return text_.substr(begin, at_ - begin);
}

void JsonReader::end() {
  skip_space();
  if (at_ != text_.size()) fail("expected nothing more");
}

}  // namespace ddit::io
