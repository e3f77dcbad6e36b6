// The kernels in plain C++. The SIMD files must return the same results, and processors without SIMD kernels use these.
//
// Unless the baseline has the instruction, fmaf is a library call here. That is about ten times slower than AVX2, with
// the same bits.

#include <algorithm>
#include <functional>
#include <vector>

#include "common/philox.h"
#include "cpu/simd/kernel_table.h"

namespace bse {
namespace {

constexpr int kPanelWidth = 16;

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  for (int64_t k = 0; k < depth; ++k) {
    for (int c = 0; c < kPanelWidth; ++c) panel[k * kPanelWidth + c] = c < num_rows ? rows[c][k] : 0.0f;
  }
}

template <bool kIsL2>
void accumulate(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                float* acc, int64_t acc_stride) {
  for (int p = 0; p < num_panels; ++p) {
    const float* panel = panels + p * depth * kPanelWidth;
    for (int i = 0; i < num_rows; ++i) {
      float* sums = acc + i * acc_stride + p * kPanelWidth;
      for (int c = 0; c < kPanelWidth && !resume; ++c) sums[c] = 0.0f;
      for (int64_t k = 0; k < depth; ++k) {
        for (int c = 0; c < kPanelWidth; ++c) {
          sums[c] = add_dimension<kIsL2>(sums[c], rows[i][k], panel[k * kPanelWidth + c]);
        }
      }
    }
  }
}

void squared_norms(const float* panel, int64_t depth, bool resume, float* norms) {
  for (int c = 0; c < kPanelWidth; ++c) {
    float norm = resume ? norms[c] : 0.0f;
    for (int64_t k = 0; k < depth; ++k) norm = fmaf(panel[k * kPanelWidth + c], panel[k * kPanelWidth + c], norm);
    norms[c] = norm;
  }
}

void finish_scores(Metric metric, float row_norm, const float* norms, int64_t count, float* acc) {
  for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(metric, acc[c], row_norm, norms[c]);
}

// The reference makes no guess: every score is collected until the buffer cuts itself back.
bool guess_threshold(const float*, int64_t, int64_t, float*) { return false; }

int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                float* kept_scores, uint32_t* kept_tiebreaks, int64_t* num_kept, int64_t capacity) {
  int64_t c = 0, used = *num_kept;
  for (; c < count && used + kPanelWidth <= capacity; ++c) {
    if (bounded ? scores[c] > threshold : scores[c] == scores[c]) {
      kept_scores[used] = scores[c];
      kept_tiebreaks[used++] = first_tiebreak + static_cast<uint32_t>(c);
    }
  }
  *num_kept = used;
  return c;
}

int64_t find_entries(const float* scores, const float* entry_scores, int64_t count, uint32_t* hits) {
  int64_t num_hits = 0;
  for (int64_t c = 0; c < count; ++c) {
    if (scores[c] >= entry_scores[c]) hits[num_hits++] = static_cast<uint32_t>(c);
  }
  return num_hits;
}

TopKCut find_cut(const float* scores, int64_t count, int64_t num_best) {
  std::vector<float> ordered(scores, scores + count);
  const auto worst = ordered.begin() + (num_best - 1);
  std::nth_element(ordered.begin(), worst, ordered.end(), std::greater<float>());
  const int64_t num_above = std::count_if(scores, scores + count, [=](float score) { return score > *worst; });
  return {*worst, num_best - num_above};
}

int64_t filter(float* scores, uint32_t* tiebreaks, int64_t count, TopKCut cut, bool keep_best) {
  int64_t num_kept = 0, num_equal = 0;
  for (int64_t c = 0; c < count; ++c) {
    const bool is_best = scores[c] > cut.score || (scores[c] == cut.score && num_equal++ < cut.num_equal);
    if (is_best != keep_best) continue;
    scores[num_kept] = scores[c];
    tiebreaks[num_kept++] = tiebreaks[c];
  }
  return num_kept;
}

void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  for (int b = 0; b < num_blocks; ++b) {
    const PhiloxBlock block = philox4x32(key, c0, c1, c2 + offsets[b].minor, c3 + offsets[b].block);
    std::copy(block.word, block.word + 4, words + 4 * b);
  }
}

int64_t keep_nonnegative(int32_t* values, int64_t count) {
  int64_t num_kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t value = values[i];
    values[num_kept] = value;
    num_kept += value >= 0;
  }
  return num_kept;
}

void find_places(const uint64_t* ranks, int64_t count, uint32_t* places) {
  for (int64_t i = 0; i < count; ++i) {
    places[i] = static_cast<uint32_t>(std::count_if(ranks, ranks + count, [=](uint64_t r) { return r < ranks[i]; }));
  }
}

}  // namespace

const KernelTable kScalarKernels = {
    "scalar",      kPanelWidth,   pack_panel,    accumulate<false>, accumulate<true>, nullptr,      nullptr,  nullptr,
    nullptr,       squared_norms, finish_scores, guess_threshold,   collect,          find_entries, find_cut, filter,
    philox_blocks, nullptr,       nullptr,       nullptr,           keep_nonnegative, find_places};

}  // namespace bse
