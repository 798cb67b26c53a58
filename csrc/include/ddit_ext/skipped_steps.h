// Steps that are skipped by plan.
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

}  // namespace ddit
