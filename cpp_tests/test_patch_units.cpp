#include <gtest/gtest.h>

#include "kernels/contiguous.h"
#include "kernels/patch_units.h"

namespace {

using ddit::kernels::contiguous_strides;
using ddit::kernels::PatchGrid;

struct Cells {
  std::array<int64_t, 7> strides;
  PatchGrid grid;
};

alignas(16) char memory[64];

int unit_bytes(const Cells& cells, int64_t element_size, const char* data = memory) {
  return ddit::kernels::unit_bytes(data, cells.strides, element_size, cells.grid);
}

// FLUX's packed tokens, and what patch_deembed writes: feature = c * p * p + y * p + x.
Cells packed(int64_t rows, int64_t cols, int64_t channels, int64_t p, int64_t scale) {
  return {contiguous_strides<7>({1, 1, rows, cols, channels, p, p}), {1, 1, rows, cols, channels, p, scale}};
}

// Wan's latents [B, C, F, H, W], a row of pixels every `pitch` elements.
Cells latents(int64_t rows, int64_t cols, int64_t pitch, int64_t p, int64_t scale) {
  const int64_t frame = rows * p * pitch;
  return {{16 * 3 * frame, frame, p * pitch, p, 3 * frame, pitch, 1}, {1, 3, rows, cols, 16, p, scale}};
}

TEST(PatchUnits, PackedTokens) {
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 1), 2), 16);  // a cell is one run of 64 elements
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 2), 2), 4);   // features go on in the next cell after p pixels
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 2), 4), 8);
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 2), 2, memory + 2), 2);
  EXPECT_EQ(unit_bytes(packed(64, 64, 3, 1, 2), 2), 2);
  EXPECT_EQ(unit_bytes(packed(64, 64, 3, 1, 2), 4), 4);
}

TEST(PatchUnits, Latents) {
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 1), 2), 4);
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 2), 2), 8);
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 4), 2), 16);  // ragged below: a unit stays in its pixel row
  EXPECT_EQ(unit_bytes(latents(30, 51, 104, 2, 4), 2), 4);   // ragged to the right: it stays in its cell
  EXPECT_EQ(unit_bytes(latents(30, 52, 102, 2, 4), 2), 4);   // rows of 204 bytes
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 4), 4), 16);
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 2), 2, memory + 4), 4);
}

TEST(PatchUnits, OnePatchThatIsContiguous) {
  EXPECT_EQ(unit_bytes(latents(2, 2, 4, 2, 2), 2), 16);  // its pixel rows follow each other
  EXPECT_EQ(unit_bytes(latents(3, 2, 4, 2, 2), 2), 8);   // but not where the last one is cut
}

TEST(PatchUnits, AStrideThatIsNoMultiple) {
  Cells cells = packed(64, 64, 16, 2, 1);
  cells.grid.batch = 2;
  cells.strides[0] = 64 * 64 * 64 + 3;
  EXPECT_EQ(unit_bytes(cells, 2), 2);  // the second sample is off
  cells.grid.batch = 1;
  EXPECT_EQ(unit_bytes(cells, 2), 16);
}

}  // namespace
