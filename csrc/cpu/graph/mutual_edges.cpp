// Each edge i -> j is checked by a linear scan of row j for the id of row i. R rows of K neighbors take R K scans of
// 4 K bytes each: O(R K^2) comparisons, and up to 4 R K^2 bytes of memory traffic. Rows are read in random order, so
// they are prefetched some edges ahead. The scans are then bound by memory, and wider SIMD gains nothing.
//
// Memory beyond the result is about 4 max(K, kEdgesAtOnce) bytes per thread. At K = 100, sorting the edges by target to
// stream them, or building the reverse graph, took as long or longer and 4 to 8 bytes per edge.
#include "cpu/graph/mutual_edges.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/runtime/huge_pages.h"

namespace bse {

namespace {

constexpr int64_t kEdgesAtOnce = 1024;       // edges whose target rows are known before the first is scanned
constexpr int64_t kEdgesPerChunk = 1 << 15;  // edges per chunk of a thread
constexpr int64_t kBytesAhead = 12 << 10;    // prefetched and not yet scanned: well below the size of an L1 cache
constexpr int64_t kCacheLine = 64;

// Whether `id` is one of the `count` values. Compares 32 values before it branches, so that compilers vectorize it.
bool contains(const int32_t* values, int64_t count, int32_t id) {
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    int32_t is_found = 0;
    for (int64_t lane = 0; lane < 32; ++lane) is_found |= -static_cast<int32_t>(values[i + lane] == id);
    if (is_found != 0) return true;
  }
  for (; i < count; ++i) {
    if (values[i] == id) return true;
  }
  return false;
}

class MutualRows {
 public:
  MutualRows(const MutualEdgesRequest& request, const Edges& edges, int32_t* degrees)
      : graph_(request.graph),
        request_(request),
        edges_(edges),
        degrees_(degrees),
        num_neighbors_(graph_.num_neighbors),
        edges_ahead_(std::clamp<int64_t>(kBytesAhead / (4 * num_neighbors_), 2, 64)) {}

  int64_t rows_of(int64_t num_edges) const { return std::max<int64_t>(1, num_edges / num_neighbors_); }

  // targets: [rows_of(kEdgesAtOnce) * num_neighbors], overwritten
  void write(int64_t begin_row, int64_t end_row, int32_t* targets) const {
    const int64_t num_edges = (end_row - begin_row) * num_neighbors_;
    for (int64_t row = begin_row, e = 0; row < end_row; ++row) {
      for (int64_t k = 0; k < num_neighbors_; ++k, ++e) {
        targets[e] = target_row(graph_.neighbors[row * num_neighbors_ + k], row);
      }
    }
    for (int64_t e = 0; e < std::min(edges_ahead_, num_edges); ++e) prefetch_row(targets[e]);
    for (int64_t row = begin_row, e = 0; row < end_row; ++row) {
      const auto id = static_cast<int32_t>(request_.ids != nullptr ? request_.ids[row] : row);
      int64_t degree = 0;
      for (int64_t k = 0; k < num_neighbors_; ++k, ++e) {
        if (e + edges_ahead_ < num_edges) prefetch_row(targets[e + edges_ahead_]);
        if (targets[e] < 0 || !contains(row_at(targets[e]), num_neighbors_, id)) continue;
        keep(row, k, degree++);
      }
      end(row, degree);
    }
  }

 private:
  const int32_t* row_at(int64_t row) const { return graph_.neighbors + row * num_neighbors_; }

  // Row of a neighbor of `row`, or -1 if there is none.
  int32_t target_row(int32_t id, int64_t row) const {
    if (id == -1) return -1;
    graph_.checked_id(id, row);
    const int32_t found = graph_.row_of != nullptr ? graph_.row_of[id] : id;
    return found < graph_.num_rows ? found : -1;
  }

  // Inlined by force: gcc takes a function that only prefetches for one without effects, and deletes calls of it.
  [[gnu::always_inline]] void prefetch_row(int32_t row) const {
    if (row < 0) return;
    const auto* first = reinterpret_cast<const char*>(row_at(row));
    const int64_t num_bytes = std::min(4 * num_neighbors_, kBytesAhead / 2);  // the hardware prefetches longer rows
    for (int64_t byte = 0; byte < num_bytes; byte += kCacheLine) __builtin_prefetch(first + byte);
    __builtin_prefetch(first + num_bytes - 1);
  }

  void keep(int64_t row, int64_t from, int64_t to) const {
    const int64_t first = row * num_neighbors_;
    edges_.neighbors[first + to] = graph_.neighbors[first + from];
    if (edges_.scores != nullptr) edges_.scores[first + to] = request_.scores[first + from];
  }

  void end(int64_t row, int64_t degree) const {
    const int64_t begin = row * num_neighbors_ + degree, end = (row + 1) * num_neighbors_;
    std::fill(edges_.neighbors + begin, edges_.neighbors + end, -1);
    if (edges_.scores != nullptr) {
      std::fill(edges_.scores + begin, edges_.scores + end, -std::numeric_limits<float>::infinity());
    }
    degrees_[row] = static_cast<int32_t>(degree);
  }

  const GraphView& graph_;
  const MutualEdgesRequest& request_;
  const Edges edges_;
  int32_t* const degrees_;
  const int64_t num_neighbors_, edges_ahead_;
};

}  // namespace

void mutual_edges(ThreadTeam& team, const MutualEdgesRequest& request, const Edges& edges, int32_t* degrees) {
  const int64_t num_rows = request.graph.num_rows, num_neighbors = request.graph.num_neighbors;
  if (num_neighbors == 0) {
    std::fill(degrees, degrees + num_rows, 0);
    return;
  }
  prefer_huge_pages(edges, num_rows, num_neighbors);
  const MutualRows rows(request, edges, degrees);
  const int64_t rows_at_once = rows.rows_of(kEdgesAtOnce);
  std::vector<std::vector<int32_t>> targets(static_cast<size_t>(team.num_threads()));
  team.for_ranges(num_rows, rows.rows_of(kEdgesPerChunk), [&](int64_t begin, int64_t end, Worker& worker) {
    std::vector<int32_t>& own = targets[static_cast<size_t>(worker.index())];
    own.resize(static_cast<size_t>(rows_at_once * num_neighbors));
    for (int64_t row = begin; row < end && !worker.should_stop(); row += rows_at_once) {
      rows.write(row, std::min(row + rows_at_once, end), own.data());
    }
  });
}

}  // namespace bse
