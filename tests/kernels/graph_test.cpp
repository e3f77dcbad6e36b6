// Compares the kernels of csrc/cuda/search/proximity_graph.cu and knn.cu to the bit with serial code, which follows the
// definitions in csrc/common one candidate at a time. The Python tests compare with the CPU engine. These tests also
// run under sanitizers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "common/draw.h"
#include "common/permutation.h"
#include "cuda/fused_topk/fused_topk.h"
#include "cuda/runtime/status.h"
#include "cuda/search/search.h"
#include "kernels/device_array.h"

namespace {

using namespace bse;
using test::DeviceArray;
using test::Scratch;

int num_failures = 0;

// Shared memory per block that suffices for fused top-k in all cases below.
constexpr size_t kAmple = 163 << 10;

enum class Data {
  kNormal,
  kIntegers,  // -1, 0 and 1: many ties
  kEqual,     // all rows are equal
  kNear,      // scores that the prefilter can hardly tell apart
  kHuge,      // the norm of one row overflows, so it has no scores; another row is zero
};

struct Case {
  const char* name;
  int64_t num_rows, dim, num_candidates, num_neighbors,
      candidate_group_size;  // candidate_group_size = 0: exact neighbors
  bool is_bfloat16 = false, has_scores = false, sort = false;
  int64_t range_min = 0;
  int num_labels = 0;  // 0: no labels
  Data data = Data::kNormal;
  size_t max_bytes = size_t{1} << 30;
  int fused_rows = 0;  // expected rows per block of fused top-k, if shared memory has room; 0: matrix top-k
};

struct Candidate {
  uint64_t rank;  // (score, column)
  uint32_t id;
};

class Reference {
 public:
  Reference(const Case& run, const std::vector<float>& features, const std::vector<int64_t>& labels)
      : run_(run), features_(features), labels_(labels) {
    for (int64_t i = 0; i < run.num_rows; ++i) {
      const float squared_norm = dot(i, i);
      const bool has_norm = squared_norm == 0.0f || has_accurate_cosines(squared_norm);
      norms_.push_back(has_norm ? row_norm(Metric::kCosine, squared_norm) : NAN);
    }
  }

  std::vector<uint32_t> drawn(uint32_t group, uint32_t count, uint32_t n) const {
    WordStream words(kSeed, Purpose::kCandidates, 0, group, 0);
    std::vector<uint32_t> values(draw_is_sparse(count, n) ? count : n);
    if (draw_is_sparse(count, n)) {
      std::vector<char> is_seen(n);
      struct Seen {
        char* is_seen;  // nvcc compiles draw_sparse() for the device too, where there are no containers
        BSE_HOST_DEVICE bool insert(uint32_t value) {
          const bool is_new = is_seen[value] == 0;
          is_seen[value] = 1;
          return is_new;
        }
      } seen{is_seen.data()};
      draw_sparse(words, count, n, seen, values.data());
    } else {
      draw_dense(words, count, n, values.data());
    }
    values.resize(count);
    return values;
  }

  // Returns the candidates of every row, in draw order.
  std::vector<std::vector<uint32_t>> candidates() const {
    const auto n = static_cast<uint32_t>(run_.num_rows);
    const auto m = static_cast<uint32_t>(run_.num_candidates);
    std::vector<std::vector<uint32_t>> result(n);
    const KeyedPermutation permutation(n, kSeed, Purpose::kGroups, 0, 0);
    for (uint32_t i = 0; i < n; ++i) {
      if (run_.candidate_group_size == 0) {
        for (uint32_t j = 0; j < n; ++j) {
          if (j != i) result[i].push_back(j);
        }
      } else if (run_.candidate_group_size == 1) {
        for (const uint32_t value : drawn(i, m, n - 1)) result[i].push_back(other_row(value, i));
      } else {
        const uint32_t row = permutation(i);
        for (const uint32_t value : drawn(i / static_cast<uint32_t>(run_.candidate_group_size), m + 1, n)) {
          if (value != row && result[row].size() < m) result[row].push_back(value);
        }
      }
    }
    return result;
  }

  void select(int64_t row, const std::vector<uint32_t>& candidates, int32_t* neighbors, float* scores) const {
    std::vector<Candidate> usable;
    for (size_t c = 0; c < candidates.size(); ++c) {
      const uint32_t other = candidates[c];
      if (!labels_.empty() && labels_[row] >= 0 && labels_[row] == labels_[other]) continue;
      const float score = finish_score(Metric::kCosine, dot(row, other), norms_[row], norms_[other]);
      if (std::isnan(score)) continue;
      usable.push_back({candidate_rank(score, static_cast<uint32_t>(c)), other});
    }
    std::sort(usable.begin(), usable.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
    usable.erase(usable.begin(), usable.begin() + std::min<int64_t>(run_.range_min, usable.size()));
    if (static_cast<int64_t>(usable.size()) > run_.num_neighbors) usable.resize(run_.num_neighbors);
    std::sort(usable.begin(), usable.end(), [&](const Candidate& a, const Candidate& b) {
      if (!run_.sort) return rank_tiebreak(a.rank) < rank_tiebreak(b.rank);
      return candidate_rank(rank_score(a.rank), a.id) < candidate_rank(rank_score(b.rank), b.id);
    });
    for (int64_t k = 0; k < run_.num_neighbors; ++k) {
      const bool is_edge = k < static_cast<int64_t>(usable.size());
      neighbors[k] = is_edge ? static_cast<int32_t>(usable[k].id) : -1;
      scores[k] = is_edge ? rank_score(usable[k].rank) : -INFINITY;
    }
  }

  static constexpr uint64_t kSeed = 77;

 private:
  float dot(int64_t i, int64_t j) const {
    float acc = 0.0f;
    for (int64_t k = 0; k < run_.dim; ++k) acc = fmaf(features_[i * run_.dim + k], features_[j * run_.dim + k], acc);
    return acc;
  }

  const Case& run_;
  const std::vector<float>& features_;
  const std::vector<int64_t>& labels_;
  std::vector<float> norms_;
};

struct Output {
  std::vector<int32_t> neighbors;
  std::vector<float> scores;
};

// Builds edges over those that are given, so that the caller sees which rows are written.
void build(const cuda::ProximityGraphRequest& request, const Case& run, Output& output) {
  const cuda::GraphPlan plan = cuda::plan_proximity_graph(request, run.max_bytes, run.fused_rows);
  Scratch scratch(plan.scratch_bytes);
  DeviceArray<int32_t> neighbors(output.neighbors);
  DeviceArray<float> scores(output.scores);
  DeviceArray<uint64_t> status(cuda::kNumStatusWords, cuda::kNoReport);
  const Edges edges{neighbors.data(), run.has_scores ? scores.data() : nullptr};
  cuda::proximity_graph(request, plan, edges, scratch.data(), status.data(), nullptr);
  output = {neighbors.to_host(), scores.to_host()};
}

// Checks that two ranges of groups write the rows of the whole graph, each row once, and no others.
void check_ranges(cuda::ProximityGraphRequest request, const Case& run, const Output& whole) {
  constexpr int32_t kUntouched = -7;
  const int64_t num_groups = request.all_groups(), num_edges = run.num_rows * run.num_neighbors;
  if (num_groups < 2) return;
  std::vector<int> num_writes(run.num_rows);
  for (const int64_t first : {int64_t{0}, num_groups / 2}) {
    request.first_group = first;
    request.num_groups = first == 0 ? num_groups / 2 : num_groups - first;
    Output found{std::vector<int32_t>(num_edges, kUntouched), std::vector<float>(num_edges, 7.0f)};
    build(request, run, found);
    for (int64_t row = 0; row < run.num_rows; ++row) {
      const int64_t place = row * run.num_neighbors;
      const bool is_written = found.neighbors[place] != kUntouched;
      num_writes[row] += is_written;
      for (int64_t k = place; k < place + run.num_neighbors; ++k) {
        const float score = is_written && run.has_scores ? whole.scores[k] : 7.0f, found_score = found.scores[k];
        const bool is_right = found.neighbors[k] == (is_written ? whole.neighbors[k] : kUntouched) &&
                              std::memcmp(&found_score, &score, sizeof score) == 0;
        if (!is_right && ++num_failures <= 20) {
          std::printf("FAILED %s: row %ld of the groups from %ld on\n", run.name, long{row}, long{first});
        }
      }
    }
  }
  if (std::any_of(num_writes.begin(), num_writes.end(), [](int count) { return count != 1; })) {
    ++num_failures;
    std::printf("FAILED %s: two ranges of groups do not write every row once\n", run.name);
  }
}

void check(const Case& run) {
  std::mt19937 generator(static_cast<unsigned>(run.num_rows + run.dim));
  std::normal_distribution<float> normal;
  std::vector<float> features(run.num_rows * run.dim);
  for (float& value : features) {
    const bool are_integers = run.data == Data::kIntegers;
    value = are_integers ? static_cast<float>(generator() % 3) - 1.0f : normal(generator);
  }
  for (size_t i = 0; i < features.size(); ++i) {
    const size_t row = i / run.dim;
    if (run.data == Data::kEqual) features[i] = features[i % run.dim];
    if (run.data == Data::kNear) features[i] = features[i % run.dim] + (row == 0 ? 0.0f : 0.02f * features[i]);
    if (run.data == Data::kHuge && row == 3) features[i] *= 0x1p125f;
    if (run.data == Data::kHuge && row == 5) features[i] = 0.0f;
  }
  std::vector<uint16_t> rounded(features.size());
  for (size_t i = 0; i < features.size(); ++i) {
    if (run.is_bfloat16) features[i] = round_to_bfloat16(features[i]);
    rounded[i] = float_to_bfloat16(features[i]);
  }
  const DeviceArray<float> as_float(features);
  const DeviceArray<uint16_t> as_bfloat16(rounded);
  std::vector<int64_t> labels;
  for (int64_t i = 0; run.num_labels > 0 && i < run.num_rows; ++i) labels.push_back(i % (run.num_labels + 1) - 1);
  const DeviceArray<int64_t> device_labels(labels);

  cuda::DeviceMatrix matrix;
  matrix.data = run.is_bfloat16 ? static_cast<const void*>(as_bfloat16.data()) : as_float.data();
  matrix.dtype = run.is_bfloat16 ? DType::kBFloat16 : DType::kFloat32;
  matrix.num_rows = run.num_rows;
  matrix.dim = matrix.row_stride_elements = run.dim;
  Selection selection;
  selection.num_neighbors = run.num_neighbors;
  selection.range_min = run.range_min;
  selection.labels = device_labels.data();
  selection.sort = run.sort || run.candidate_group_size == 0;

  const int64_t num_edges = run.num_rows * run.num_neighbors;
  Output found{std::vector<int32_t>(num_edges, -7), std::vector<float>(num_edges, 7.0f)};
  if (run.candidate_group_size == 0) {
    cuda::KnnRequest request;
    request.queries = request.base = matrix;
    request.num_queries = request.num_base = run.num_rows;
    request.exclude_self = true;
    request.selection = selection;
    const cuda::KnnPlan plan = cuda::plan_knn(request, run.max_bytes);
    Scratch scratch(plan.scratch_bytes);
    DeviceArray<int32_t> neighbors(found.neighbors);
    DeviceArray<float> scores(found.scores);
    DeviceArray<uint64_t> status(cuda::kNumStatusWords, cuda::kNoReport);
    cuda::knn(request, plan, {neighbors.data(), run.has_scores ? scores.data() : nullptr}, scratch.data(),
              status.data(), nullptr);
    found = {neighbors.to_host(), scores.to_host()};
  } else {
    cuda::ProximityGraphRequest request;
    request.features = request.documents = matrix;
    request.num_rows = run.num_rows;
    request.num_candidates = run.num_candidates;
    request.candidate_group_size = run.candidate_group_size;
    request.num_groups = request.all_groups();
    request.selection = selection;
    request.seed = Reference::kSeed;
    request.has_scores = run.has_scores;
    const cuda::GraphPlan plan = cuda::plan_proximity_graph(request, run.max_bytes, run.fused_rows);
    const bool has_room = device::max_shared_bytes() >= kAmple || run.fused_rows == 0;
    const bool is_expected = has_room ? plan.fused_rows == run.fused_rows : plan.fused_rows <= run.fused_rows;
    if (!is_expected && ++num_failures) {
      std::printf("FAILED %s: fused of %d, expected %d\n", run.name, plan.fused_rows, run.fused_rows);
    }
    build(request, run, found);
    check_ranges(request, run, found);
  }

  Case expected_run = run;
  expected_run.sort = selection.sort;
  const Reference reference(expected_run, features, labels);
  const auto candidates = reference.candidates();
  std::vector<int32_t> expected(run.num_neighbors);
  std::vector<float> expected_scores(run.num_neighbors);
  for (int64_t row = 0; row < run.num_rows; ++row) {
    reference.select(row, candidates[row], expected.data(), expected_scores.data());
    for (int64_t k = 0; k < run.num_neighbors; ++k) {
      const int64_t place = row * run.num_neighbors + k;
      const float score = found.scores[place];
      const bool is_equal = found.neighbors[place] == expected[k] &&
                            (!run.has_scores || std::memcmp(&score, &expected_scores[k], sizeof score) == 0);
      if (!is_equal && ++num_failures <= 20) {
        std::printf("FAILED %s: row %ld, select %ld: %d, expected %d\n", run.name, long{row}, long{k},
                    found.neighbors[place], expected[k]);
      }
    }
  }
}

// Checks how many rows per block fused top-k has by default, given the shared memory that a block may have.
void check_default_fused_rows() {
  const size_t bytes = device::max_shared_bytes();
  const int expected = bytes >= 227 << 10 ? 64 : bytes >= 163 << 10 ? 32 : bytes >= 99 << 10 ? 16 : 0;
  const int rows = cuda::fused_rows(256, 1001, 128, cuda::tuning::kMaxFusedRows);
  if (rows == expected) return;
  ++num_failures;
  std::printf("FAILED fused of %d rows by default, expected %d\n", rows, expected);
}

}  // namespace

int main() {
  check_default_fused_rows();
  const Case cases[] = {
      {"shared draws", 150, 19, 40, 5, 60, false, true},
      {"shared draws, sorted", 150, 19, 40, 5, 60, false, true, true},
      {"all candidates kept", 70, 3, 69, 69, 32, false, true},
      {"dense draws", 66, 5, 50, 7, 16},
      {"own draws", 90, 33, 30, 6, 1, false, true},
      {"own dense draws, ties", 40, 4, 39, 5, 1, false, true, true, 0, 0, Data::kIntegers},
      {"ranks skipped, labels, ties", 130, 6, 60, 5, 64, false, true, false, 7, 4, Data::kIntegers},
      {"little scratch", 300, 4, 30, 3, 20, false, false, false, 0, 0, Data::kNormal, 20000},
      {"tensor cores", 200, 40, 150, 20, 128, true},
      {"tensor cores, ties and labels", 140, 16, 90, 11, 70, true, false, false, 0, 3, Data::kIntegers},
      {"tensor cores, rows beyond a tile", 300, 136, 40, 9, 290, true},
      {"exact neighbors", 140, 21, 0, 6, 0, false, true},
      {"exact neighbors, ties", 131, 2, 0, 130, 0, false, true, true, 0, 2, Data::kIntegers},
  };
  for (const Case& run : cases) check(run);
  // bfloat16 rows by fused top-k with every number of rows per block, and by matrix top-k (0 rows).
  const auto fused = [](const char* name, int64_t num_rows, int64_t dim, int64_t num_candidates, int64_t num_neighbors,
                        int64_t candidate_group_size, Data data = Data::kNormal, int64_t range_min = 0,
                        int num_labels = 0) {
    return Case{name, num_rows, dim,   num_candidates, num_neighbors, candidate_group_size,
                true, false,    false, range_min,      num_labels,    data};
  };
  const Case fused_cases[] = {
      fused("fused, ragged", 150, 40, 100, 10, 70),
      fused("fused, all candidates kept", 70, 8, 69, 69, 70),
      fused("fused, one kept, one beyond a panel", 300, 24, 256, 1, 150),
      fused("fused, ties, labels", 130, 16, 90, 11, 65, Data::kIntegers, 0, 3),
      fused("fused, all equal", 180, 16, 170, 20, 40, Data::kEqual),
      fused("fused, all close, ranks skipped", 150, 24, 97, 13, 64, Data::kNear, 5),
      fused("fused, a huge row, more skipped than there are", 90, 16, 60, 5, 48, Data::kHuge, 58),
      fused("fused, a huge row", 90, 16, 40, 7, 48, Data::kHuge),
      fused("fused, a huge row, few candidates", 90, 64, 8, 3, 48, Data::kHuge),
  };
  int num_fused = 0;
  for (Case run : fused_cases) {
    for (const int rows : {0, 16, 32, 64}) {
      if (rows >= 2 * run.candidate_group_size) continue;
      run.fused_rows = rows;
      check(run);
      ++num_fused;
    }
  }
  Case wide = fused("fused, two parts of columns", 1200, 8, 1100, 30, 600);
  wide.fused_rows = 32;
  check(wide);
  Case by_default = fused("fused, shared memory as by default", 1002, 128, 1000, 100, 1002);
  by_default.fused_rows = 16;
  check(by_default);
  if (num_failures > 0) return 1;
  std::printf("graphs: %zu cases equal to the definitions\n", std::size(cases) + num_fused + 2);
  return 0;
}
