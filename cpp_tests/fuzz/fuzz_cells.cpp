// Any grid of cells, any strides, any scale, over a buffer of exactly the elements that they reach: embedded
// with an identity weight and de-embedded it has to come back; the scores have to be numbers.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "ddit_ext/latent_history.h"
#include "ddit_ext/plain.h"

namespace {

using ddit::plain::Cells;

void expect(bool condition) {
  if (!condition) std::abort();
}

// Numbers out of the input; zeros when it has run out.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  int64_t below(int64_t limit) { return take<uint8_t>() % limit; }
  int64_t any() { return take<int64_t>(); }

 private:
  template <class Number>
  Number take() {
    Number value = 0;
    const size_t held = std::min<size_t>(sizeof value, static_cast<size_t>(end_ - at_));
    if (held > 0) std::memcpy(&value, at_, held);
    at_ += held;
    return value;
  }
  const uint8_t* at_;
  const uint8_t* end_;
};

// Sizes of 64 random bits: taken or refused, without reading a latent and without an overflow on the way.
void wild_sizes(Input& input) {
  Cells::Shape sizes;
  for (int64_t& size : sizes) size = input.any() >> input.below(64);
  const std::vector<float> one(1);
  const int64_t scale = input.any();
  try {
    Cells::contiguous(nullptr, sizes);
    Cells::from_latents(nullptr, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]);
  } catch (const std::invalid_argument&) {
  }
  sizes[0] = 0;  // an empty batch is read nowhere
  try {
    expect(ddit::plain::patch_embed({nullptr, sizes, {}}, one.data(), nullptr, 1, scale).empty());
    expect(ddit::plain::patch_deembed(nullptr, one.data(), nullptr, 1, scale, sizes).empty());
  } catch (const std::invalid_argument&) {
  }
}

void round_trip(Input& input) {
  const int64_t p = 1 + input.below(2);
  const Cells::Shape sizes{
      input.below(3), 1 + input.below(2), 1 + input.below(7), 1 + input.below(7), 1 + input.below(2), p, p};
  Cells::Shape strides;
  int64_t reach = 1;
  for (size_t i = 0; i < sizes.size(); ++i) {
    strides[i] = input.below(40);
    reach += std::max<int64_t>(sizes[i] - 1, 0) * strides[i];
  }
  const int64_t scale = 1 + input.below(9);
  std::vector<float> latent(static_cast<size_t>(reach));
  for (size_t i = 0; i < latent.size(); ++i) latent[i] = static_cast<float>(i % 251) - 125.0f;
  const Cells cells{latent.data(), sizes, strides};
  const int64_t D = sizes[4] * scale * p * scale * p;
  if (D <= 18) {
    std::vector<float> identity(static_cast<size_t>(D * D), 0.0f);
    for (int64_t i = 0; i < D; ++i) identity[static_cast<size_t>(i * D + i)] = 1.0f;
    const auto tokens = ddit::plain::patch_embed(cells, identity.data(), nullptr, D, scale);
    const auto back = ddit::plain::patch_deembed(tokens.data(), identity.data(), nullptr, D, scale, sizes);
    size_t at = 0;
    std::array<int64_t, 7> index{};
    for (; at < back.size(); ++at) {
      int64_t offset = 0;
      for (size_t i = 0; i < 7; ++i) offset += index[i] * strides[i];
      expect(back[at] == latent[static_cast<size_t>(offset)]);
      for (size_t i = 7; i-- > 0 && ++index[i] == sizes[i];) index[i] = 0;
    }
  }
  const std::vector<int64_t> scales{scale, 1 + (input.any() & INT64_MAX) / 2, 1};
  const double quantile = static_cast<double>(input.below(256)) / 255.0;
  for (float score : ddit::plain::acceleration_quantiles({cells, cells, cells, cells}, scales, quantile))
    expect(score == 0.0f);  // z - 3 z + 3 z - z
  if (sizes[0] == 0) return;
  ddit::LatentHistory history;
  for (int64_t step = 0; step < 4; ++step) history.push(step, latent.data(), sizes, strides);
  expect(history.ready() && history.quantiles(scales, quantile).size() == static_cast<size_t>(sizes[0]));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  if (input.below(4) == 0) {
    wild_sizes(input);
  } else {
    round_trip(input);
  }
  return 0;
}
