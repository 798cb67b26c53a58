// Steps that are skipped by plan: where the computed ones lie, and what a skipped one's features are made of.
#pragma once

#include <cstdint>
#include <vector>

namespace ddit {

// A schedule of total_steps entries, of which `computed` are 1 and the others kSkip: the k-th computed step
// is at total_steps * (k / computed)^growth, rounded, and after the one before. growth 1 spreads them evenly;
// above it the gaps grow along the run, since what the blocks add changes most in its first steps.
//
// std::invalid_argument where computed is not in [1, total_steps] or growth not in [1, 4].
std::vector<int64_t> growing_gaps(int64_t total_steps, int64_t computed, double growth = 1.75);

// The weights of values that were seen at `levels`, whose sum is the value at `at` of the polynomial through
// them (Lagrange). One level gives {1}, the last value again; two a line, three a parabola.
//
// levels: noise levels of computed steps, in any order, all different. std::invalid_argument otherwise.
std::vector<double> extrapolation_weights(const std::vector<double>& levels, double at);

}  // namespace ddit
