// The CUDA engine's candidates from a previous graph against the CPU engine's: the same rows in the same order.
//
// A few rows of large pools: the hash tables that shared memory has no room for are those of thousands of candidates.

#include "cpu/candidates/warm_start.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "common/draw.h"
#include "cuda/candidates/warm_start.h"
#include "cuda/runtime/status.h"
#include "kernels/scalar_kernels.h"
#include "kernels/test_arrays.h"

namespace {

using namespace bse;
using test::Array;
using test::synchronize;

constexpr int64_t kRowsAtOnce = 5, kFirstRow = 2;

int num_failures = 0;

struct Case {
  const char* name;
  int64_t num_nodes, num_candidates, num_neighbors;
  int64_t num_pool_rows = 0, num_previous_rows = 0;  // 0: all
  bool has_repeats = false;
};

std::vector<int64_t> some_of(int64_t num_nodes, int64_t count, std::mt19937& random) {
  std::vector<int64_t> ids(num_nodes);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  ids.resize(count);
  return ids;
}

void set_row_of(const std::vector<int64_t>& ids, Array<int32_t>& row_of) {
  for (size_t row = 0; row < ids.size(); ++row) row_of[ids[row]] = static_cast<int32_t>(row);
}

void check(const Case& run) {
  std::mt19937 random(static_cast<unsigned>(run.num_nodes + run.num_candidates));
  const int64_t num_pool = run.num_pool_rows > 0 ? run.num_pool_rows : run.num_nodes;
  const int64_t num_previous = run.num_previous_rows > 0 ? run.num_previous_rows : run.num_nodes;
  Array<int32_t> pool_row_of(run.num_nodes, -1), previous_row_of(run.num_nodes, -1);
  Array<int64_t> rows(num_pool);
  const std::vector<int64_t> pool = some_of(run.num_nodes, num_pool, random);
  std::copy(pool.begin(), pool.end(), rows.data());
  set_row_of(pool, pool_row_of);
  set_row_of(some_of(run.num_nodes, num_previous, random), previous_row_of);

  Array<int32_t> neighbors(num_previous * run.num_neighbors, -1), degrees(num_previous);
  for (int64_t row = 0; row < num_previous; ++row) {
    degrees[row] = static_cast<int32_t>(row % 5 == 0 ? random() % (run.num_neighbors + 1) : run.num_neighbors);
    for (int64_t i = 0; i < degrees[row]; ++i) {
      const int64_t range = run.has_repeats ? std::min<int64_t>(run.num_nodes, 9) : run.num_nodes;
      neighbors[row * run.num_neighbors + i] = static_cast<int32_t>(random() % range);
    }
  }
  Array<uint32_t> drawn(kRowsAtOnce * run.num_candidates), numbers(kRowsAtOnce * run.num_candidates);
  for (int64_t r = 0; r < kRowsAtOnce; ++r) {  // of the other rows: numbers, and the rows that they mean
    const std::vector<int64_t> values = some_of(num_pool - 1, run.num_candidates, random);
    for (int64_t c = 0; c < run.num_candidates; ++c) {
      numbers[r * run.num_candidates + c] = static_cast<uint32_t>(values[c]);
      drawn[r * run.num_candidates + c] =
          other_row(static_cast<uint32_t>(values[c]), static_cast<uint32_t>(kFirstRow + r));
    }
  }

  ProximityGraphRequest request;
  request.num_candidates = run.num_candidates;
  request.seed = 77;
  request.pool_row_of = run.num_pool_rows > 0 ? pool_row_of.data() : nullptr;
  request.rows = run.num_pool_rows > 0 ? rows.data() : nullptr;
  GraphView& previous = request.previous;
  previous.neighbors = neighbors.data();
  previous.num_rows = num_previous;
  previous.num_neighbors = run.num_neighbors;
  previous.degrees = degrees.data();
  previous.row_of = run.num_previous_rows > 0 ? previous_row_of.data() : nullptr;
  previous.num_nodes = run.num_nodes;

  cuda::WarmRequest device_request;
  device_request.previous = {previous.neighbors, previous.num_rows, previous.num_neighbors,
                             previous.degrees,   previous.row_of,   previous.num_nodes};
  device_request.pool_row_of = request.pool_row_of;
  device_request.rows = request.rows;
  device_request.num_candidates = request.num_candidates;
  device_request.seed = request.seed;
  cuda::Scratch sizes(nullptr);
  const cuda::WarmStart plan(device_request, kRowsAtOnce, sizes);
  Array<unsigned char> buffer(sizes.num_bytes() + 256);
  cuda::Scratch scratch(reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(buffer.data()) + 255) / 256 * 256));
  Array<uint64_t> status(cuda::kNumStatusWords, cuda::kNoReport);
  const cuda::WarmStart warm_start(device_request, kRowsAtOnce, scratch);
  const uint32_t* chosen =
      warm_start.launch(kFirstRow, kRowsAtOnce, drawn.data(), run.num_candidates, status.data(), nullptr);
  synchronize();

  WarmStart expected(request);
  std::vector<uint32_t> candidates(run.num_candidates);
  for (int64_t r = 0; r < kRowsAtOnce; ++r) {
    const int64_t row = kFirstRow + r, instance = request.rows != nullptr ? request.rows[row] : row;
    expected.choose(row, instance, numbers.data() + r * run.num_candidates, candidates.data());
    const bool is_equal = std::equal(candidates.begin(), candidates.end(), chosen + r * run.num_candidates);
    if (!is_equal && ++num_failures <= 20) std::printf("FAILED %s: row %ld\n", run.name, long{row});
  }
  if (status[static_cast<int>(cuda::StatusKind::kNeighborNotARow)] != cuda::kNoReport && ++num_failures <= 20) {
    std::printf("FAILED %s: a report of nothing\n", run.name);
  }
}

}  // namespace

int main() {
  const Case cases[] = {
      {"one candidate", 9, 1, 3},
      {"two candidates", 9, 2, 3},
      {"as many as there are", 40, 39, 12},
      {"more neighbours than are taken", 300, 120, 90},
      {"one and a half strips of neighbours", 2000, 800, 390},
      {"the same neighbours again and again", 900, 300, 200, 0, 0, true},
      {"a part of the instances, before and now", 900, 300, 60, 600, 500},
      {"tables in global memory", 4000, 2500, 300, 3000, 0},
  };
  for (const Case& run : cases) check(run);
  if (num_failures > 0) return 1;
  std::printf("warm starts: %zu cases equal to the CPU engine's\n", std::size(cases));
  return 0;
}
