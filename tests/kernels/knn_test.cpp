// Compares exact neighbors (csrc/cuda/search/knn.cu) by streaming top-k and by matrix top-k with serial code, to the
// bit. The sets are small, so the tests force streaming top-k. Its candidate lists are cut back all the same, because
// lists for few neighbors are short.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/runtime/status.h"
#include "cuda/search/search.h"
#include "kernels/device_array.h"

namespace {

using namespace bse;
using test::DeviceArray;

int num_failures = 0;

enum class Kind {
  kNormal,
  kEqual,
  kIntegers,
  kCluster,   // the scores of all pairs are closer to each other than the error of the prefilter
  kPermuted,  // sums differ by less than rounding, so approximate scores do not rank exact ones
  kMean,      // a large common mean
  kRising,    // each tile of columns is better than the tiles before
  kHeavy,     // norms of many scales and some zero rows, with an error bound of the prefilter
  kUnbounded  // norms of many scales, without an error bound
};

struct Case {
  const char* name;
  Kind kind;
  int64_t num_rows, dim, num_neighbors;
  int64_t num_queries = 0;  // queries apart from the base; 0: the base, each row without itself
  bool is_bfloat16 = true;
  Metric metric = Metric::kCosine;
  int64_t range_min = 0;
  int num_labels = 0;  // 0: no labels; negative: some labels are equal in the low 32 bits only
  bool has_max_score = false;
  bool has_subset = false;
  size_t max_bytes = size_t{1} << 30;
  unsigned num_multiprocessors = 4;  // in the emulator; decides into how many splits the base goes
};

std::vector<float> make_features(const Case& run, int64_t num_rows, unsigned seed, bool are_queries) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(num_rows * run.dim), center(run.dim);
  for (float& value : center) value = normal(generator);
  for (int64_t k = 0; run.kind == Kind::kPermuted && k < run.dim; ++k)
    center[k] *= std::ldexp(1.0f, static_cast<int>(k % 3 * 10 - 10));
  for (int64_t i = 0; i < num_rows; ++i) {
    const float progress = static_cast<float>(i) / static_cast<float>(num_rows);
    const float scale = std::ldexp(1.0f, static_cast<int>(generator() % 20) - 10);
    const bool is_special = generator() % 16 == 0;
    if (run.kind == Kind::kPermuted) std::shuffle(center.begin(), center.end(), generator);
    for (int64_t k = 0; k < run.dim; ++k) {
      float value = normal(generator);
      switch (run.kind) {
        case Kind::kNormal:
          break;
        case Kind::kEqual:
          value = center[k];
          break;
        case Kind::kIntegers:
          value = static_cast<float>(generator() % 3) - 1.0f;
          break;
        case Kind::kCluster:
          value = center[k] * scale * (1.0f + (is_special ? 0.01f : 0.0f) * value);
          break;
        case Kind::kPermuted:
          // Elements have several scales, so that sums are rounded. The smallest differ, by no more than the rounding.
          value = are_queries ? 1.0f : std::fabs(center[k]) < 0.01f ? 3e-4f * value : std::fabs(center[k]);
          break;
        case Kind::kMean:
          value += 30.0f * center[k];
          break;
        case Kind::kRising:
          value = center[k] + value * (1.01f - progress);
          break;
        case Kind::kHeavy:
          value *= is_special ? 0.0f : scale;
          break;
        case Kind::kUnbounded:
          value *= is_special ? 1e-17f : scale;
          break;
      }
      values[i * run.dim + k] = run.is_bfloat16 ? round_to_bfloat16(value) : value;
    }
  }
  return values;
}

std::vector<uint16_t> rounded(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(float_to_bfloat16(value));
  return halves;
}

// Features in memory of the device.
struct Matrix {
  Matrix(const std::vector<float>& values, int64_t dim, bool is_bfloat16)
      : floats(is_bfloat16 ? std::vector<float>() : values),
        halves(is_bfloat16 ? rounded(values) : std::vector<uint16_t>()) {
    view.data = is_bfloat16 ? static_cast<const void*>(halves.data()) : floats.data();
    view.dtype = is_bfloat16 ? DType::kBFloat16 : DType::kFloat32;
    view.num_rows = static_cast<int64_t>(values.size()) / dim;
    view.dim = view.row_stride_elements = dim;
  }

  DeviceArray<float> floats;
  DeviceArray<uint16_t> halves;
  cuda::DeviceMatrix view;
};

struct Result {
  std::vector<int32_t> neighbors;
  std::vector<float> scores;
};

Result run_device(const cuda::KnnRequest& request, cuda::KnnMethod method, size_t max_bytes) {
  const int64_t num_edges = request.num_queries * request.selection.num_neighbors;
  DeviceArray<int32_t> neighbors(num_edges, -7);
  DeviceArray<float> scores(num_edges, 7.0f);
  DeviceArray<uint64_t> status(cuda::kNumStatusWords, cuda::kNoReport);
  const cuda::KnnPlan plan = cuda::plan_knn(request, max_bytes, method);
  if (plan.is_streaming != (method == cuda::KnnMethod::kStreaming)) {
    ++num_failures;
    std::printf("FAILED: another method than asked for\n");
  }
  test::Scratch scratch(plan.scratch_bytes);
  cuda::knn(request, plan, {neighbors.data(), scores.data()}, scratch.data(), status.data(), nullptr);
  return {neighbors.to_host(), scores.to_host()};
}

class Reference {
 public:
  Reference(const Case& run, const std::vector<float>& queries, const std::vector<float>& base)
      : run_(run), queries_(queries), base_(base) {}

  float score(int64_t query, int64_t other) const {
    const float *a = &queries_[query * run_.dim], *b = &base_[other * run_.dim];
    return finish_score(run_.metric, run_.metric == Metric::kL2 ? chain<true>(a, b) : chain<false>(a, b),
                        row_norm(run_.metric, chain<false>(a, a)), row_norm(run_.metric, chain<false>(b, b)));
  }

  Result edges(const cuda::KnnRequest& request) const {
    const Selection& selection = request.selection;
    Result result;
    for (int64_t i = 0; i < request.num_queries; ++i) {
      const int64_t query = request.query_ids != nullptr ? request.query_ids[i] : i;
      std::vector<uint64_t> ranks;
      for (int64_t j = 0; j < request.num_base; ++j) {
        const int64_t other = request.base_ids != nullptr ? request.base_ids[j] : j;
        const int64_t* labels = selection.labels;
        if (request.exclude_self && other == query) continue;
        if (labels != nullptr && labels[query] >= 0 && labels[query] == labels[other]) continue;
        const float value = score(query, other);
        if (std::isnan(value) || (selection.has_max_score && value > selection.max_score)) continue;
        ranks.push_back(candidate_rank(value, static_cast<uint32_t>(other)));
      }
      std::sort(ranks.begin(), ranks.end());
      for (int64_t k = selection.range_min; k < selection.range_min + selection.num_neighbors; ++k) {
        const bool is_edge = k < static_cast<int64_t>(ranks.size());
        result.neighbors.push_back(is_edge ? static_cast<int32_t>(rank_tiebreak(ranks[k])) : -1);
        result.scores.push_back(is_edge ? rank_score(ranks[k]) : -INFINITY);
      }
    }
    return result;
  }

 private:
  template <bool kIsL2>
  float chain(const float* a, const float* b) const {
    float acc = 0.0f;
    for (int64_t k = 0; k < run_.dim; ++k) acc = add_dimension<kIsL2>(acc, a[k], b[k]);
    return acc;
  }

  const Case& run_;
  const std::vector<float>&queries_, &base_;
};

void compare(const Case& run, const char* method, const Result& found, const Result& expected) {
  for (size_t i = 0; i < expected.neighbors.size(); ++i) {
    const bool is_equal = found.neighbors[i] == expected.neighbors[i] &&
                          std::memcmp(&found.scores[i], &expected.scores[i], sizeof(float)) == 0;
    if (is_equal || ++num_failures > 20) continue;
    std::printf("FAILED %s, %s: row %ld, link %ld: %d (%.9g), expected %d (%.9g)\n", run.name, method,
                static_cast<long>(i / run.num_neighbors), static_cast<long>(i % run.num_neighbors), found.neighbors[i],
                static_cast<double>(found.scores[i]), expected.neighbors[i], static_cast<double>(expected.scores[i]));
  }
}

void check(const Case& run) {
#if !defined(__CUDACC__)
  emulator::config().num_multiprocessors = run.num_multiprocessors;
#endif
  const auto seed = static_cast<unsigned>(run.num_rows + run.dim);
  const std::vector<float> base_values = make_features(run, run.num_rows, seed, false);
  const std::vector<float> query_values =
      run.num_queries > 0 ? make_features(run, run.num_queries, seed + 1, true) : base_values;
  Matrix base(base_values, run.dim, run.is_bfloat16), queries(query_values, run.dim, run.is_bfloat16);
  std::vector<int64_t> labels(run.num_rows), subset;
  const int num_labels = std::abs(run.num_labels);
  for (int64_t i = 0; num_labels > 0 && i < run.num_rows; ++i) {
    labels[i] = i % (num_labels + 1) - 1;
    if (run.num_labels < 0 && i % 7 == 0) labels[i] += int64_t{1} << 32;
  }
  for (int64_t i = 0; i < run.num_rows; ++i) {
    if (i % 5 != 3) subset.push_back(i);
  }

  cuda::KnnRequest request;  // its ids and labels are on the host
  request.base = base.view;
  request.queries = run.num_queries > 0 ? queries.view : base.view;
  request.separate_base = run.num_queries > 0;
  request.num_base = run.num_rows;
  request.num_queries = run.num_queries > 0 ? run.num_queries : run.num_rows;
  request.exclude_self = run.num_queries == 0;
  if (run.has_subset) {
    request.base_ids = subset.data();
    request.num_base = static_cast<int64_t>(subset.size());
    if (run.num_queries == 0) {
      request.query_ids = subset.data();
      request.num_queries = request.num_base;
    }
  }
  Selection& selection = request.selection;
  selection.metric = run.metric;
  selection.num_neighbors = run.num_neighbors;
  selection.range_min = run.range_min;
  selection.labels = num_labels > 0 ? labels.data() : nullptr;
  selection.sort = true;
  const Reference reference(run, query_values, base_values);
  if (run.has_max_score) {  // a score that occurs: edges may have it, but no larger one
    selection.has_max_score = true;
    selection.max_score = reference.score(0, run.num_rows / 2);
  }

  const Result expected = reference.edges(request);
  const DeviceArray<int64_t> device_labels(labels), device_subset(subset);
  cuda::KnnRequest moved = request;
  if (moved.base_ids != nullptr) moved.base_ids = device_subset.data();
  if (moved.query_ids != nullptr) moved.query_ids = device_subset.data();
  if (selection.labels != nullptr) moved.selection.labels = device_labels.data();
  compare(run, "lists", run_device(moved, cuda::KnnMethod::kStreaming, run.max_bytes), expected);
  if (run.num_queries == 0) return;  // graph_test.cpp tests matrix top-k of the base itself
  compare(run, "matrix", run_device(moved, cuda::KnnMethod::kMatrix, run.max_bytes), expected);
}

// Checks which method plan_knn chooses by itself.
void check_plan(int64_t num_base, int64_t num_neighbors, size_t max_bytes, bool is_streaming) {
  cuda::KnnRequest request;
  request.num_queries = 1000;
  request.num_base = num_base;
  request.selection.num_neighbors = num_neighbors;
  const cuda::KnnPlan plan = cuda::plan_knn(request, max_bytes);
  if (plan.is_streaming == is_streaming && plan.scratch_bytes <= max_bytes) return;
  ++num_failures;
  std::printf("FAILED plan for %ld neighbors of %ld\n", static_cast<long>(num_neighbors), static_cast<long>(num_base));
}

}  // namespace

int main() {
  constexpr bool kFloat = false;
  const Case cases[] = {
      {"normal", Kind::kNormal, 300, 40, 4},
      {"one neighbor", Kind::kNormal, 257, 8, 1},
      {"one element", Kind::kNormal, 300, 1, 3},
      {"all neighbors", Kind::kNormal, 140, 16, 139},
      {"a base of several splits", Kind::kNormal, 800, 24, 2, 30},
      {"few multiprocessors", Kind::kNormal, 700, 16, 2, 150, true, Metric::kCosine, 0, 0, false, false, 1 << 30, 1},
      {"dim is no multiple of 8", Kind::kNormal, 300, 13, 4},
      {"more slices than stages", Kind::kNormal, 270, 160, 3, 20},
      {"queries do not stay in shared memory", Kind::kNormal, 260, 168, 3, 10},
      {"many splits", Kind::kNormal, 2100, 16, 3, 10},
      {"equal", Kind::kEqual, 300, 8, 4},
      {"equal, splits", Kind::kEqual, 700, 8, 4, 20},
      {"integers", Kind::kIntegers, 400, 8, 4},
      {"cluster", Kind::kCluster, 500, 16, 4},
      {"cluster, splits, labels", Kind::kCluster, 900, 16, 4, 20, true, Metric::kCosine, 0, 5},
      {"permuted", Kind::kPermuted, 700, 64, 4, 1},
      {"permuted, more elements", Kind::kPermuted, 700, 120, 2, 1},
      {"permuted, max_score", Kind::kPermuted, 700, 64, 4, 1, true, Metric::kCosine, 0, 0, true},
      {"permuted, more rows", Kind::kPermuted, 900, 96, 9, 1},
      {"mean", Kind::kMean, 400, 32, 4},
      {"rising", Kind::kRising, 600, 16, 4, 40},
      {"heavy tails", Kind::kHeavy, 400, 24, 4},
      {"no bound", Kind::kUnbounded, 400, 24, 4},
      {"labels", Kind::kNormal, 500, 16, 4, 0, true, Metric::kCosine, 0, 3},
      {"wide labels", Kind::kNormal, 500, 16, 4, 0, true, Metric::kCosine, 0, -3},
      {"few may be linked", Kind::kEqual, 400, 8, 100, 0, true, Metric::kCosine, 0, 1},
      {"max_score", Kind::kCluster, 400, 16, 4, 0, true, Metric::kCosine, 0, 0, true},
      {"ranks skipped", Kind::kIntegers, 400, 8, 3, 0, true, Metric::kCosine, 9, 4, true, true},
      {"more ranks skipped than there are", Kind::kNormal, 200, 8, 3, 0, true, Metric::kCosine, 900},
      {"subset", Kind::kNormal, 500, 16, 4, 0, true, Metric::kCosine, 0, 0, false, true},
      {"subset of a separate base", Kind::kNormal, 500, 16, 4, 33, true, Metric::kCosine, 0, 0, false, true},
      {"little scratch", Kind::kNormal, 300, 8, 2, 0, true, Metric::kCosine, 0, 0, false, false, 30000},
      {"float32", Kind::kNormal, 300, 19, 4, 0, kFloat},
      {"float32, equal", Kind::kEqual, 500, 3, 4, 20, kFloat},
      {"float32, rising", Kind::kRising, 600, 16, 4, 40, kFloat},
      {"float32, l2", Kind::kHeavy, 300, 5, 4, 0, kFloat, Metric::kL2, 2, 3, true},
      {"bfloat16, l2, mean", Kind::kMean, 300, 33, 4, 20, true, Metric::kL2},
      {"bfloat16, ip", Kind::kUnbounded, 300, 8, 4, 0, true, Metric::kInnerProduct, 0, 3, true, true},
  };
  for (const Case& run : cases) check(run);

  constexpr size_t kGiB = size_t{1} << 30;
  check_plan(1000, 10, kGiB, false);
  check_plan(200000, 100, kGiB, true);
  check_plan(200000, 100, size_t{3} << 20, true);
  check_plan(200000, 512, kGiB, true);
  check_plan(200000, 513, kGiB, false);
  check_plan(1500, 400, kGiB, false);
  if (num_failures > 0) return 1;
  std::printf("exact neighbors: %zu cases equal to the definitions\n", std::size(cases));
  return 0;
}
