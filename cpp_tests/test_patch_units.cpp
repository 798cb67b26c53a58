#include <gtest/gtest.h>

#include "kernels/patch_linear/units.h"

namespace {

using ddit::kernels::patch_linear::PatchMatrix;
using ddit::kernels::patch_linear::plain_matrix;
using ddit::kernels::patch_linear::unit_bytes;

alignas(16) char memory[64];

// FLUX's packed tokens: feature = c * p * p + y * p + x.
PatchMatrix packed(int64_t rows, int64_t cols, int64_t channels, int64_t p, int64_t scale) {
  const int64_t cell = channels * p * p;
  return {memory,
          {rows * cols * cell, 0, cols * cell, cell, p * p, p, 1},
          {1, 1, rows, cols, channels, p, scale}};
}

// Wan's latents [B, C, F, H, W], a row of pixels every `pitch` elements.
PatchMatrix latents(int64_t rows, int64_t cols, int64_t pitch, int64_t p, int64_t scale) {
  const int64_t frame = rows * p * pitch;
  return {
      memory, {16 * 3 * frame, frame, p * pitch, p, 3 * frame, pitch, 1}, {1, 3, rows, cols, 16, p, scale}};
}

TEST(PatchUnits, PackedTokens) {
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 1), 2), 16);  // a cell is one run of 64 elements
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 2), 2), 4);   // features go on in the next cell after p pixels
  EXPECT_EQ(unit_bytes(packed(64, 64, 16, 2, 2), 4), 8);
  EXPECT_EQ(unit_bytes(packed(64, 64, 3, 1, 2), 2), 2);
  EXPECT_EQ(unit_bytes(packed(64, 64, 3, 1, 2), 4), 4);
}

TEST(PatchUnits, Latents) {
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 1), 2), 4);
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 2), 2), 8);
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 4), 2), 16);  // ragged below: a unit stays in its pixel row
  EXPECT_EQ(unit_bytes(latents(30, 51, 104, 2, 4), 2), 16);  // ragged to the right: units may be cut
  EXPECT_EQ(unit_bytes(latents(30, 51, 102, 2, 4), 2), 4);   // rows of 204 bytes
  EXPECT_EQ(unit_bytes(latents(30, 52, 104, 2, 4), 4), 16);
}

TEST(PatchUnits, OnePatchThatIsContiguous) {
  EXPECT_EQ(unit_bytes(latents(2, 2, 4, 2, 2), 2), 16);  // its pixel rows follow each other
  EXPECT_EQ(unit_bytes(latents(3, 2, 4, 2, 2), 2), 8);   // but not where the last one is cut
}

TEST(PatchUnits, PlainMatrices) {
  EXPECT_EQ(unit_bytes(plain_matrix(memory, 2, 10, 3072, {30720, 3072, 1}), 2), 16);
  EXPECT_EQ(unit_bytes(plain_matrix(memory, 2, 10, 3068, {30680, 3068, 1}), 2), 8);
  EXPECT_EQ(unit_bytes(plain_matrix(memory, 2, 10, 3072, {30723, 3072, 1}), 2),
            2);  // the second sample is off
  EXPECT_EQ(unit_bytes(plain_matrix(memory, 1, 10, 3072, {30723, 3072, 1}), 2), 16);
  EXPECT_EQ(unit_bytes(plain_matrix(memory, 2, 10, 3072, {0, 3072, 1}), 2), 16);
  EXPECT_EQ(unit_bytes(plain_matrix(memory, 2, 10, 3072, {30720, 1, 10}), 2), 2);  // transposed
  EXPECT_EQ(unit_bytes(plain_matrix(memory + 8, 2, 10, 3072, {30720, 3072, 1}), 2), 8);
}

}  // namespace
