// Compares mutual edges by the CUDA engine with those by the CPU engine: edges, scores, degrees and errors.
//
// Compiled by g++, it executes the kernel in the emulator, under several schedules. Compiled by nvcc (-x cu), it runs
// it on a GPU. tests/python/test_mutual.py compares the CPU engine with the oracle.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/graph/mutual_edges.h"
#include "cuda/graph/mutual_edges.h"
#include "cuda/runtime/status.h"
#include "kernels/checks.h"
#include "kernels/device_array.h"

namespace {

using namespace bse;
using namespace bse::test;

int64_t num_edges_compared = 0, num_mutual_edges = 0;

// A graph of short rows, self-loops, repeated neighbors, and neighbors without a row if it is a subset.
class Tables {
 public:
  Tables(int64_t num_rows, int64_t num_neighbors, bool is_subset, std::mt19937& random)
      : num_rows_(num_rows),
        num_neighbors_(num_neighbors),
        num_instances_(is_subset ? 2 * num_rows + 3 : num_rows),
        neighbors_(static_cast<size_t>(num_rows * num_neighbors), -1),
        ids_(is_subset ? static_cast<size_t>(num_rows) : 0),
        row_of_(is_subset ? static_cast<size_t>(num_instances_) : 0, -1),
        scores_(neighbors_.size()) {
    std::vector<int32_t> instances(static_cast<size_t>(num_instances_));
    for (size_t i = 0; i < instances.size(); ++i) instances[i] = static_cast<int32_t>(i);
    if (is_subset) std::shuffle(instances.begin(), instances.end(), random);
    for (size_t row = 0; row < ids_.size(); ++row) {
      ids_[row] = instances[row];
      row_of_[static_cast<size_t>(instances[row])] = static_cast<int32_t>(row);
    }
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t degree = random() % 3 == 0 ? below(num_neighbors + 1, random) : num_neighbors;
      for (int64_t k = 0; k < degree; ++k) {
        const int64_t near =
            (row + below(2 * num_neighbors + 3, random) + num_rows - num_neighbors % num_rows) % num_rows;
        const int64_t target = random() % 8 == 0 ? below(num_instances_, random) : near;
        neighbors_[static_cast<size_t>(row * num_neighbors + k)] = instances[static_cast<size_t>(target)];
      }
    }
    for (size_t e = 0; e < scores_.size(); ++e) scores_[e] = static_cast<float>(e);
  }

  int64_t num_rows() const { return num_rows_; }
  size_t num_edges() const { return neighbors_.size(); }
  int64_t num_instances() const { return num_instances_; }
  int32_t& neighbor(size_t e) { return neighbors_[e]; }
  const std::vector<int32_t>& neighbors() const { return neighbors_; }
  const std::vector<int64_t>& ids() const { return ids_; }
  const std::vector<int32_t>& row_of() const { return row_of_; }
  const std::vector<float>& scores() const { return scores_; }

  // The request of one engine, with tables in its memory.
  template <class Request>
  Request request(const int32_t* neighbors, const int64_t* ids, const int32_t* row_of, const float* scores) const {
    Request request;
    request.graph.neighbors = neighbors;
    request.graph.num_rows = num_rows_;
    request.graph.num_neighbors = num_neighbors_;
    request.graph.row_of = row_of_.empty() ? nullptr : row_of;
    request.graph.num_instances = num_instances_;
    request.ids = ids_.empty() ? nullptr : ids;
    request.scores = scores;
    return request;
  }

 private:
  static int64_t below(int64_t n, std::mt19937& random) { return static_cast<int64_t>(random()) % n; }

  int64_t num_rows_, num_neighbors_, num_instances_;
  std::vector<int32_t> neighbors_;
  std::vector<int64_t> ids_;
  std::vector<int32_t> row_of_;
  std::vector<float> scores_;
};

struct Result {
  Result(const Tables& tables, bool has_scores)
      : neighbors(tables.num_edges(), -7),
        scores(has_scores ? tables.num_edges() : 0, -7.0f),
        degrees(static_cast<size_t>(tables.num_rows()), -7) {}

  bool has_scores() const { return !scores.empty(); }

  std::vector<int32_t> neighbors;
  std::vector<float> scores;
  std::vector<int32_t> degrees;
};

std::string on_device(const Tables& tables, Result& result) {
  const DeviceArray<int32_t> table(tables.neighbors()), row_of(tables.row_of());
  const DeviceArray<int64_t> ids(tables.ids());
  const DeviceArray<float> table_scores(tables.scores());
  DeviceArray<int32_t> neighbors(result.neighbors), degrees(result.degrees);
  DeviceArray<float> scores(result.scores);
  DeviceArray<uint64_t> status(cuda::kNumStatusWords, cuda::kNoReport);
  const auto request = tables.request<cuda::MutualEdgesRequest>(table.data(), ids.data(), row_of.data(),
                                                                result.has_scores() ? table_scores.data() : nullptr);
  cuda::launch_mutual_edges(request, {neighbors.data(), scores.data()}, degrees.data(), status.data(), nullptr);
  result.neighbors = neighbors.to_host();
  result.scores = scores.to_host();
  result.degrees = degrees.to_host();
  return cuda::status_message(status.to_host().data(), tables.num_instances());
}

std::string on_cpu(const Tables& tables, int num_threads, Result& result) {
  Silent monitor;
  ThreadTeam team(num_threads, monitor);
  const bool has_scores = result.has_scores();
  const auto request =
      tables.request<MutualEdgesRequest>(tables.neighbors().data(), tables.ids().data(), tables.row_of().data(),
                                         has_scores ? tables.scores().data() : nullptr);
  try {
    mutual_edges(team, request, {result.neighbors.data(), has_scores ? result.scores.data() : nullptr},
                 result.degrees.data());
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void compare(Tables& tables, bool has_scores, const std::string& what) {
  Result expected(tables, has_scores), got(tables, has_scores);
  const std::string error = on_cpu(tables, 1, expected), message = on_device(tables, got);
  expect(error == message, what + ": '" + message + "', expected '" + error + "'");
  if (!error.empty()) return;
  expect(expected.neighbors == got.neighbors, what + ": neighbors");
  expect(expected.scores == got.scores, what + ": scores");
  expect(expected.degrees == got.degrees, what + ": degrees");
  num_edges_compared += static_cast<int64_t>(tables.num_edges());
  for (size_t row = 0; row < expected.degrees.size(); ++row) num_mutual_edges += expected.degrees[row];
}

void run_all(uint32_t seed) {
  std::mt19937 random(seed);
  for (const int64_t num_neighbors : {1, 2, 7, 31, 32, 33, 64, 100, 300}) {
    for (const int64_t num_rows : {1, 3, kIsSmall ? 20 : 90}) {
      for (const bool is_subset : {false, true}) {
        const std::string what = std::to_string(num_rows) + " rows of " + std::to_string(num_neighbors) +
                                 (is_subset ? ", subset" : "") + ", seed " + std::to_string(seed);
        Tables tables(num_rows, num_neighbors, is_subset, random);
        compare(tables, random() % 2 == 0, what);
        const int32_t bad[] = {-2, static_cast<int32_t>(tables.num_instances()), INT32_MIN, INT32_MAX};
        tables.neighbor(random() % tables.num_edges()) = bad[random() % 4];
        Result unused(tables, false);
        expect(!on_cpu(tables, 2, unused).empty(), what + ": a bad id is an error");
        compare(tables, true, what + ", bad id");
      }
    }
  }
}

}  // namespace

int main() {
#if defined(__CUDACC__)
  for (uint32_t seed = 0; seed < 5; ++seed) run_all(seed);
#else
  emulator::Config& config = emulator::config();
  for (uint32_t seed = 0; seed < (kIsSmall ? 1 : 3); ++seed) {
    config.seed = seed;
    config.preemption = seed == 1 ? 3 : 16;
    config.resident_blocks = 1 + seed;
    run_all(seed);
  }
#endif
  expect(num_mutual_edges > num_edges_compared / 20, "many mutual edges");
  std::printf("mutual edges: %lld of %lld: %s\n", static_cast<long long>(num_mutual_edges),
              static_cast<long long>(num_edges_compared), num_failures == 0 ? "equal to the CPU engine" : "FAILED");
  return num_failures == 0 ? 0 : 1;
}
