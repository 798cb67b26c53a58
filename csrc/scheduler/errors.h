// Errors of the scheduler's classes: std::invalid_argument that begins with the class.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace ddit {

template <class... Parts>
void check(const char* who, bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << who << ": ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// "[1, 2, 4]"
template <class Values>
std::string show(const Values& values, const char* open = "[", const char* close = "]") {
  std::ostringstream text;
  text << open;
  const char* between = "";
  for (const auto& value : values) {
    text << between << value;
    between = ", ";
  }
  text << close;
  return text.str();
}

}  // namespace ddit
