// Compares every instruction set of this machine with the scalar one: kernels on awkward arrays, and whole graphs. Also
// checks the bound of prefilters by bytes, and draws of many candidates at a time. This file needs no Python, so it can
// be built for another processor and run under emulation (tests/tools/run_neon.sh).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "cpu/candidates/candidate_draw.h"
#include "cpu/runtime/aligned_buffer.h"
#include "cpu/search/search.h"
#include "cpu/simd/dispatch.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/topk/byte_copy.h"
#include "cpu/topk/row_norms.h"

namespace {

using namespace bse;

int num_failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++num_failures;
  std::printf("FAILED: %s\n", what.c_str());
}

template <class T>
bool same_bits(const T* a, const T* b, int64_t count) {
  return count == 0 || std::memcmp(a, b, static_cast<size_t>(count) * sizeof(T)) == 0;
}

// Returns scores with ties, infinities, NaN or many magnitudes, by kind.
std::vector<float> awkward_scores(std::mt19937& random, int64_t count, int kind) {
  std::vector<float> scores(static_cast<size_t>(count));
  for (float& score : scores) {
    const auto word = static_cast<uint32_t>(random());
    if (kind == 0) score = std::normal_distribution<float>()(random);
    if (kind == 1) score = static_cast<float>(static_cast<int>(word % 5) - 2);
    if (kind == 2) score = 1.0f;
    if (kind == 3) score = std::ldexp(static_cast<float>(word % 16) - 7.5f, static_cast<int>(word >> 8) % 120 - 60);
    if (kind == 4 && word % 4 == 0) score = std::numeric_limits<float>::quiet_NaN();
    if (kind == 5) score = word % 3 == 0 ? std::numeric_limits<float>::infinity() : -static_cast<float>(word % 7);
    score += 0.0f;  // scores are never -0
  }
  return scores;
}

struct Kept {
  std::vector<float> scores;
  std::vector<uint32_t> tiebreaks;
};

Kept collect_all(const KernelTable& kernels, const std::vector<float>& scores, bool bounded, float threshold) {
  const auto count = static_cast<int64_t>(scores.size());
  Kept kept{std::vector<float>(scores.size() + 128), std::vector<uint32_t>(scores.size() + 128)};
  int64_t num_kept = 0;
  const int64_t seen = kernels.collect(scores.data(), count, 7, bounded, threshold, kept.scores.data(),
                                       kept.tiebreaks.data(), &num_kept, count + 128);
  expect(seen == count, "collect looks at all scores");
  kept.scores.resize(static_cast<size_t>(num_kept));
  kept.tiebreaks.resize(static_cast<size_t>(num_kept));
  return kept;
}

// Collects into so little room that the kernel has to stop, and goes on where it stopped.
Kept collect_in_parts(const KernelTable& kernels, const std::vector<float>& scores, bool bounded, float threshold,
                      int64_t capacity) {
  constexpr float kUntouched = 12345.0f;
  const auto count = static_cast<int64_t>(scores.size());
  Kept kept;
  for (int64_t position = 0; position < count;) {
    std::vector<float> part(static_cast<size_t>(capacity) + 1, kUntouched);
    std::vector<uint32_t> tiebreaks(part.size());
    int64_t num_kept = 0;
    const int64_t seen =
        kernels.collect(scores.data() + position, count - position, static_cast<uint32_t>(7 + position), bounded,
                        threshold, part.data(), tiebreaks.data(), &num_kept, capacity);
    expect(seen > 0 && num_kept <= capacity && part.back() == kUntouched, "collect stays within its room");
    if (seen <= 0) break;
    kept.scores.insert(kept.scores.end(), part.begin(), part.begin() + num_kept);
    kept.tiebreaks.insert(kept.tiebreaks.end(), tiebreaks.begin(), tiebreaks.begin() + num_kept);
    position += seen;
  }
  return kept;
}

void test_selection(const KernelTable& kernels, const KernelTable& scalar, std::mt19937& random) {
  for (int64_t count = 1; count <= 130; ++count) {
    for (int kind = 0; kind < 6; ++kind) {
      const std::string at =
          std::string(kernels.isa_name) + ", " + std::to_string(count) + " of kind " + std::to_string(kind);
      const std::vector<float> scores = awkward_scores(random, count, kind);
      const float threshold = scores[static_cast<size_t>(count / 2)];
      for (const bool bounded : {false, true}) {
        const Kept own = collect_all(kernels, scores, bounded, threshold);
        const Kept expected = collect_all(scalar, scores, bounded, threshold);
        expect(own.tiebreaks == expected.tiebreaks && own.scores == expected.scores, "collect: " + at);
        const Kept parts = collect_in_parts(kernels, scores, bounded, threshold, kernels.panel_width + count % 7);
        expect(parts.tiebreaks == expected.tiebreaks && parts.scores == expected.scores, "collect in parts: " + at);
        const auto size = static_cast<int64_t>(expected.scores.size());
        for (const int64_t num_best : {int64_t{1}, (size + 1) / 2, size}) {
          if (bounded || num_best < 1 || num_best > size) continue;
          for (const bool keep_best : {true, false}) {
            Kept a = own, b = own;
            for (Kept* kept : {&a, &b}) {
              kept->scores.resize(static_cast<size_t>(size) + 32);
              kept->tiebreaks.resize(static_cast<size_t>(size) + 32);
            }
            const TopKCut cut = kernels.find_cut(a.scores.data(), size, num_best);
            const int64_t left = kernels.filter(a.scores.data(), a.tiebreaks.data(), size, cut, keep_best);
            const TopKCut expected_cut = scalar.find_cut(b.scores.data(), size, num_best);
            const int64_t expected_left =
                scalar.filter(b.scores.data(), b.tiebreaks.data(), size, expected_cut, keep_best);
            expect(left == expected_left && same_bits(a.scores.data(), b.scores.data(), left) &&
                       same_bits(a.tiebreaks.data(), b.tiebreaks.data(), left),
                   "find_cut and filter: " + at);
          }
        }
      }
      const std::vector<float> entries = awkward_scores(random, count, kind);
      std::vector<uint32_t> hits(scores.size() + 16), expected_hits(scores.size() + 16);
      const int64_t num_hits = kernels.find_entries(scores.data(), entries.data(), count, hits.data());
      const int64_t expected_num = scalar.find_entries(scores.data(), entries.data(), count, expected_hits.data());
      expect(num_hits == expected_num && same_bits(hits.data(), expected_hits.data(), num_hits), "find_entries: " + at);
    }
    for (int kind = 0; kind < 4; ++kind) {  // all kept, few, half, none
      std::vector<int32_t> values(static_cast<size_t>(count) + 16, -1);
      for (int64_t i = 0; i < count; ++i) {
        const auto word = static_cast<int32_t>(random() >> 1);
        values[static_cast<size_t>(i)] = kind == 0 || word % (kind == 1 ? 30 : 2) == kind - 1 ? word : ~word;
      }
      std::vector<int32_t> expected = values;
      const int64_t num_kept = kernels.keep_nonnegative(values.data(), count);
      const int64_t num_expected = scalar.keep_nonnegative(expected.data(), count);
      expect(num_kept == num_expected && same_bits(values.data(), expected.data(), num_kept),
             std::string(kernels.isa_name) + ", keep_nonnegative of " + std::to_string(count));
    }
    std::vector<uint64_t> ranks(static_cast<size_t>(count));
    for (uint64_t& rank : ranks) rank = uint64_t{random()} << 32 | random();
    std::vector<uint32_t> places(ranks.size()), expected(ranks.size());
    kernels.find_places(ranks.data(), count, places.data());
    scalar.find_places(ranks.data(), count, expected.data());
    expect(places == expected, std::string(kernels.isa_name) + ", find_places");
  }
}

void test_philox(const KernelTable& kernels, const KernelTable& scalar, std::mt19937& random) {
  constexpr int kNumBlocks = 24;
  BlockOffset offsets[kNumBlocks];
  uint32_t words[4 * kNumBlocks], expected[4 * kNumBlocks];
  for (int round = 0; round < 100; ++round) {
    for (BlockOffset& offset : offsets) offset = {static_cast<uint32_t>(random()), static_cast<uint32_t>(random())};
    const uint64_t key = uint64_t{random()} << 32 | random();
    const auto c0 = static_cast<uint32_t>(random()), c3 = static_cast<uint32_t>(random());
    kernels.philox_blocks(key, c0, 5, 6, c3, offsets, kNumBlocks, words);
    scalar.philox_blocks(key, c0, 5, 6, c3, offsets, kNumBlocks, expected);
    expect(same_bits(words, expected, 4 * kNumBlocks), std::string(kernels.isa_name) + ", philox_blocks");
  }
}

struct Silent : Monitor {
  bool poll(int64_t) override { return true; }
};

// Returns rows with a largest element, half steps between bytes, many magnitudes, near ties or zeros, by kind.
std::vector<float> awkward_rows(std::mt19937& random, int64_t num_rows, int64_t dim, int kind) {
  std::vector<float> rows(static_cast<size_t>(num_rows * dim));
  for (float& value : rows) value = std::normal_distribution<float>()(random);
  for (int64_t i = 0; i < num_rows; ++i) {
    float* row = &rows[static_cast<size_t>(i * dim)];
    for (int64_t k = 0; k < dim; ++k) {
      if (kind == 1) row[k] = k == i % dim ? 1.0f : 0.0f;
      if (kind == 2) row[k] = k == 0 ? 1.0f : (i % 2 == 0 ? 0.5f : 0.5f + 0.5f / 254.0f) / 127.0f;
      if (kind == 3) row[k] *= std::exp2(5.0f * std::normal_distribution<float>()(random));
      if (kind == 4 && i > 0) row[k] = rows[static_cast<size_t>(k)] + 1e-5f * row[k];
      if (kind == 5 && i % 2 == 0) row[k] = 0.0f;
      if (kind == 6) row[k] = k == 0 ? 1.0f : 1e-42f * row[k];
      if (kind == 7) row[k] = std::ldexp(row[k], static_cast<int>(i % 9) - 4);
    }
  }
  return rows;
}

// Returns the cosines of a row and all rows.
std::vector<float> exact_cosines(const std::vector<float>& rows, const std::vector<float>& norms, int64_t query) {
  const size_t dim = rows.size() / norms.size(), own = static_cast<size_t>(query);
  std::vector<float> cosines(norms.size());
  for (size_t i = 0; i < norms.size(); ++i) {
    float chain = 0.0f;
    for (size_t k = 0; k < dim; ++k) chain = std::fma(rows[own * dim + k], rows[i * dim + k], chain);
    cosines[i] = finish_score(Metric::kCosine, chain, norms[own], norms[i]);
  }
  return cosines;
}

// Approximate cosines by bytes are within their bound of the exact ones.
void test_byte_copy(const std::string& isa, std::mt19937& random) {
  if (kernel_table().gather_byte_dots == nullptr) return;
  constexpr int64_t kNumRows = 37;
  std::vector<int64_t> ids(97);
  for (size_t c = 0; c < ids.size(); ++c) ids[c] = static_cast<int64_t>(random() % kNumRows);
  Silent monitor;
  ThreadTeam team(2, monitor);
  for (const int64_t dim : {32, 63, 64, 65, 127, 511, 513, 777, 1000, 4200, 8192}) {
    for (int kind = 0; kind < 8; ++kind) {
      const std::vector<float> values = awkward_rows(random, kNumRows, dim, kind);
      MatrixView features;
      features.data = values.data();
      features.num_rows = kNumRows;
      features.dim = features.row_stride_elements = dim;
      std::vector<float> norms(kNumRows);
      compute_row_norms(team, features, "features", nullptr, kNumRows, Metric::kCosine, norms.data());
      const ByteCopy copy(features, nullptr, norms.data(), kNumRows, team);
      CopiedScores copied(features, copy);
      for (int64_t query = 0; query < kNumRows; ++query) {
        const std::vector<float> exact = exact_cosines(values, norms, query);
        copied.set_query(query, norms[static_cast<size_t>(query)]);
        const auto count = static_cast<int64_t>(ids.size()) - query % 9;
        std::vector<float> high(ids.size());
        copied.score(ids.data(), count, high.data());
        std::vector<float> refined = high;
        copied.refine(ids.data(), count, refined.data());
        for (size_t c = 0; c < static_cast<size_t>(count); ++c) {
          const auto error = [&](float score) {
            return std::fabs(static_cast<double>(score) - static_cast<double>(exact[static_cast<size_t>(ids[c])]));
          };
          expect(2.0 * error(high[c]) < copied.high_margin() && 2.0 * error(refined[c]) < copied.refined_margin(),
                 isa + ", cosine by bytes, dim " + std::to_string(dim) + ", kind " + std::to_string(kind));
        }
      }
    }
  }
}

struct HashSet {
  std::unordered_set<uint32_t> values;
  bool insert(uint32_t value) { return values.insert(value).second; }
};

// Draws with marks and many words at a time are those of draw_sparse().
void test_draws(const std::string& isa, std::mt19937& random) {
  for (const uint32_t n : {7u, 511u, 65537u, 262145u, 1048576u, 1048577u, 2147483647u}) {
    for (const uint32_t most : {3u, 100u, 5000u}) {
      const uint32_t num_drawn = std::min(most, n / 2);
      if (!draw_is_sparse(num_drawn, n)) continue;
      const uint64_t seed = random();
      CandidateDraw draw(num_drawn, n, seed);
      for (int round = 0; round < (most == 3 ? 600 : 20); ++round) {  // marks start again after 255 draws
        const auto group = static_cast<uint32_t>(random());
        const uint32_t* const drawn = draw(group);
        WordStream words(seed, Purpose::kCandidates, 0, group, 0);
        HashSet seen;
        std::vector<uint32_t> expected(num_drawn);
        draw_sparse(words, num_drawn, n, seen, expected.data());
        expect(same_bits(drawn, expected.data(), num_drawn), isa + ", draw below " + std::to_string(n));
      }
    }
  }
}

struct Built {
  std::vector<int32_t> neighbors;
  std::vector<float> scores;
};

Built build(const MatrixView& features, Metric metric, int64_t candidate_group_size, int64_t num_neighbors, bool exact,
            bool with_scores) {
  const auto size = static_cast<size_t>(features.num_rows * num_neighbors);
  Built built{std::vector<int32_t>(size), std::vector<float>(with_scores ? size : 0)};
  const Edges edges{built.neighbors.data(), with_scores ? built.scores.data() : nullptr};
  Selection selection;
  selection.metric = metric;
  selection.num_neighbors = num_neighbors;
  Silent monitor;
  if (exact) {
    KnnRequest request;
    request.queries = request.base = features;
    request.num_queries = request.num_base = features.num_rows;
    request.exclude_self = true;
    request.selection = selection;
    request.num_threads = 2;
    request.max_memory_bytes = 1 << 28;
    knn(request, edges, monitor);
  } else {
    ProximityGraphRequest request;
    request.features = request.documents = features;
    request.num_rows = features.num_rows;
    request.num_candidates = features.num_rows / 2;
    request.candidate_group_size = candidate_group_size;
    request.num_groups = request.all_groups();
    request.selection = selection;
    request.num_threads = 2;
    request.max_memory_bytes = 1 << 28;
    proximity_graph(request, edges, monitor);
  }
  return built;
}

void test_graphs(const std::string& isa, std::mt19937& random) {
  for (const int64_t dim : {1, 5, 16, 67, 300}) {
    const int64_t num_rows = dim == 5 ? 1100 : 150;
    std::vector<float> values(static_cast<size_t>(num_rows * dim));
    for (float& value : values) value = std::normal_distribution<float>()(random);
    if (dim == 16) {
      for (float& value : values) value = std::round(value);  // ties
    }
    if (dim == 67) {
      for (float& value : values) value += 1000.0f;
    }
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) halves[i] = float_to_bfloat16(values[i]);
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      MatrixView features;
      features.data = dtype == DType::kFloat32 ? static_cast<const void*>(values.data()) : halves.data();
      features.dtype = dtype;
      features.num_rows = num_rows;
      features.dim = features.row_stride_elements = dim;
      for (const Metric metric : {Metric::kCosine, Metric::kInnerProduct, Metric::kL2}) {
        for (const int64_t candidate_group_size : {1, 64}) {
          for (const bool exact : {false, true}) {
            for (const bool with_scores : {false, true}) {
              use_isa("scalar");
              const Built expected = build(features, metric, candidate_group_size, 9, exact, with_scores);
              use_isa(isa);
              const Built built = build(features, metric, candidate_group_size, 9, exact, with_scores);
              expect(built.neighbors == expected.neighbors && same_bits(built.scores.data(), expected.scores.data(),
                                                                        static_cast<int64_t>(expected.scores.size())),
                     isa + ", graph of dim " + std::to_string(dim));
            }
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  use_isa("scalar");
  const KernelTable& scalar = kernel_table();
  for (const std::string& isa : supported_isas()) {
    use_isa(isa);
    test_selection(kernel_table(), scalar, random);
    test_philox(kernel_table(), scalar, random);
    test_byte_copy(isa, random);
    test_draws(isa, random);
    test_graphs(isa, random);
    std::printf("%s: %s\n", isa.c_str(), num_failures == 0 ? "equal to scalar" : "FAILED");
  }
  return num_failures == 0 ? 0 : 1;
}
