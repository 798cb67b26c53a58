#pragma once

#include <cstdlib>

namespace ddit_test {

// Sets an environment variable for the length of a test.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

inline const char* const kOrders[] = {"forward", "reverse", "1", "2", "3"};

}  // namespace ddit_test
