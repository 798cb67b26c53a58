// Who runs next, as the environment asks for; fibers.h says how.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace ddit_emulation {

class Order {
 public:
  Order() {
    const std::string order = setting("DDIT_EMULATION_ORDER", "forward");
    const std::string blocks = setting("DDIT_EMULATION_BLOCKS", "1");
    if (order == "reverse") {
      reverse_ = true;
    } else if (order != "forward") {
      random_.seed(number("DDIT_EMULATION_ORDER", order, "forward, reverse or a number"));
      random_order_ = true;
    }
    resident_ = number("DDIT_EMULATION_BLOCKS", blocks, "from 1 to 4");
    if (resident_ < 1 || resident_ > kMostResident) {
      throw std::runtime_error("DDIT_EMULATION_BLOCKS must be from 1 to 4, got " + blocks);
    }
  }

  static constexpr unsigned kMostResident = 4;

  // How many blocks are under way at a time.
  unsigned resident() const { return resident_; }
  bool random() const { return random_order_; }
  bool once_in(unsigned count) { return random_() % count == 0; }

  std::vector<unsigned> of(size_t count) {
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0u);
    arrange(order);
    return order;
  }

  // A new random order; any other stays as it is.
  void again(std::vector<unsigned>& order) {
    if (random_order_) std::shuffle(order.begin(), order.end(), random_);
  }

 private:
  static std::string setting(const char* name, const char* otherwise) {
    const char* text = std::getenv(name);
    return text && *text ? text : otherwise;
  }

  static unsigned number(const char* name, const std::string& text, const char* expected) {
    if (text.find_first_not_of("0123456789") != std::string::npos) {
      throw std::runtime_error(std::string(name) + " must be " + expected + ", got " + text);
    }
    return static_cast<unsigned>(std::stoul(text));
  }

  void arrange(std::vector<unsigned>& order) {
    if (reverse_) std::reverse(order.begin(), order.end());
    again(order);
  }

  bool reverse_ = false;
  bool random_order_ = false;
  unsigned resident_ = 1;
  std::mt19937 random_;
};

}  // namespace ddit_emulation
