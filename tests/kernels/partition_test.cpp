// Compares the CUDA engine's partitions with the CPU engine's: batches and numbers of filled rows must be equal.
//
// Compiled by g++, it executes the kernels in the emulator, under several schedules. Compiled by nvcc (-x cu), it runs
// them on a GPU. Only the scalar instruction set of the CPU engine is linked.

#include "cuda/partition/partition.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/permutation.h"
#include "cpu/walk/batch_walks.h"
#include "cuda/primitives/member_select.cuh"
#include "cuda/runtime/status.h"
#include "kernels/checks.h"
#include "kernels/device_array.h"
#include "kernels/scalar_kernels.h"

namespace {

using namespace bse;
using namespace bse::test;

using Random = std::mt19937;

int64_t num_compared = 0, num_rows_compared = 0, num_rows_filled = 0, num_reads = 0;

struct Reader : cuda::CounterReader {
  void read(int64_t* host, const int64_t* device, int64_t count) override {
    ++num_reads;
    copy_to_host(host, device, static_cast<size_t>(count));
  }
};

#if defined(__CUDACC__)
void use_schedule(uint64_t) {}
#else
void use_schedule(uint64_t seed) {
  emulator::config().seed = seed;
  emulator::config().resident_blocks = 1 + seed % 3;
  emulator::config().preemption = seed % 2 == 0 ? 16 : 200;
}
#endif

// ---- selection by digits, on ties that the hashes of real keys do not have

__global__ void covers_kernel(const cuda::Member* members, uint32_t num_members, uint32_t count, uint8_t* is_covered) {
  const cuda::MemberPrefix prefix = cuda::select(members, num_members, count);
  for (uint32_t i = threadIdx.x; i < num_members; i += cuda::kMemberThreads) {
    is_covered[i] = prefix.covers(members[i]) ? 1 : 0;
  }
}

void test_select() {
  const auto is_before = [](const cuda::Member& a, const cuda::Member& b) {
    return std::make_pair(a.key, a.value) < std::make_pair(b.key, b.value);
  };
  Random random(2);
  use_schedule(3);
  for (int spread = 0; spread < 3; ++spread) {  // keys: all equal, few values, arbitrary
    for (const uint32_t size : {2u, 31u, 128u, 700u}) {
      std::vector<cuda::Member> members(size);
      for (uint32_t i = 0; i < size; ++i) {
        const uint64_t key = spread == 0 ? 5 : spread == 1 ? uint64_t{random() % 3} << 40 : uint64_t{random()} << 32;
        members[i] = {key, i * 40503u, 0};
      }
      std::shuffle(members.begin(), members.end(), random);
      const DeviceArray<cuda::Member> device_members(members);
      for (const uint32_t count : {1u, size / 2, size - 1}) {
        DeviceArray<uint8_t> covered(size);
        device::launch(covers_kernel, dim3(1), dim3(cuda::kMemberThreads), 0, nullptr, device_members.data(), size,
                       count, covered.data());
        const std::vector<uint8_t> is_covered = covered.to_host();
        uint32_t num_covered = 0;
        for (uint32_t i = 0; i < size; ++i) {
          uint32_t rank = 0;
          for (uint32_t other = 0; other < size; ++other) rank += is_before(members[other], members[i]) ? 1 : 0;
          expect(is_covered[i] == (rank < count ? 1 : 0),
                 "select " + std::to_string(count) + " of " + std::to_string(size));
          num_covered += is_covered[i];
        }
        expect(num_covered == count, "number selected");
      }
    }
  }
}

// ---- graphs

struct Graph {
  std::string name;
  int64_t num_rows, num_neighbors, num_instances;
  std::vector<int32_t> neighbors, degrees, row_of;
  bool is_full = true, is_subset = false;

  // list(row): up to num_neighbors rows. With more than one node per row, row i is a node drawn at random.
  Graph(const std::string& name, int64_t num_rows, int64_t num_neighbors,
        const std::function<std::vector<int64_t>(int64_t)>& list, int64_t nodes_per_row = 1)
      : name(name),
        num_rows(num_rows),
        num_neighbors(num_neighbors),
        num_instances(num_rows * nodes_per_row),
        neighbors(static_cast<size_t>(num_rows * num_neighbors), -1),
        degrees(static_cast<size_t>(num_rows)),
        row_of(static_cast<size_t>(num_instances), -1),
        is_subset(nodes_per_row > 1) {
    std::vector<int32_t> nodes(static_cast<size_t>(num_instances));
    std::iota(nodes.begin(), nodes.end(), 0);
    if (is_subset) std::shuffle(nodes.begin(), nodes.end(), std::mt19937(7));
    for (int64_t row = 0; row < num_rows; ++row) row_of[nodes[row]] = static_cast<int32_t>(row);
    for (int64_t row = 0; row < num_rows; ++row) {
      std::vector<int64_t> rows = list(row);
      rows.resize(std::min(rows.size(), static_cast<size_t>(num_neighbors)));
      degrees[row] = static_cast<int32_t>(rows.size());
      is_full = is_full && degrees[row] == num_neighbors;
      for (size_t k = 0; k < rows.size(); ++k) neighbors[row * num_neighbors + k] = nodes[rows[k]];
    }
  }

  template <class View>
  View view() const {
    View view;
    view.neighbors = neighbors.data();
    view.num_rows = num_rows;
    view.num_neighbors = num_neighbors;
    view.degrees = is_full ? nullptr : degrees.data();
    view.row_of = is_subset ? row_of.data() : nullptr;
    view.num_instances = num_instances;
    return view;
  }
};

std::vector<int64_t> drawn(int64_t count, int64_t begin, int64_t end, Random& random) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  for (int64_t& row : rows) row = begin + static_cast<int64_t>(random() % static_cast<uint64_t>(end - begin));
  return rows;
}

constexpr int kNumGraphKinds = 10;

Graph graph_of_kind(int kind, int64_t n, Random& random) {
  const auto all = [&](int64_t count) { return drawn(count, 0, n, random); };
  switch (kind) {
    case 0:
      return Graph("random", n, 12, [&](int64_t) { return all(12); });
    case 1:  // more neighbors than a row asks for votes
      return Graph("clusters", n, 150, [&](int64_t row) {
        const int64_t begin = row / 40 * 40;
        return drawn(150, begin, std::min(n, begin + 40), random);
      });
    case 2:
      return Graph("short rows", n, 70, [&](int64_t) { return all(static_cast<int64_t>(random() % 71)); });
    case 3:
      return Graph("subset", n, 20, [&](int64_t row) { return drawn(20, row / 2, row / 2 + (n + 1) / 2, random); }, 3);
    case 4:
      return Graph("dead ends", n, 5, [&](int64_t row) { return all(row % 3 == 0 ? 5 : 0); });
    case 5:
      return Graph("self-loops", n, 3, [&](int64_t row) { return std::vector<int64_t>{row, row, (row + 1) % n}; });
    case 6:
      return Graph("closed components", n, 33, [&](int64_t row) {
        const int64_t begin = row / 5 * 5;
        return drawn(33, begin, std::min(n, begin + 5), random);
      });
    case 7:
      return Graph("star", n, 4, [&](int64_t row) { return row == 0 ? all(4) : std::vector<int64_t>(4, 0); });
    case 8:
      return Graph("hubs", n, 40, [&](int64_t) { return drawn(40, 0, std::min<int64_t>(n, 50), random); });
    default:
      return Graph("ring", n, 16, [&](int64_t row) {
        std::vector<int64_t> rows;
        for (int64_t k = 1; k <= 8; ++k) rows.insert(rows.end(), {(row + k) % n, (row + n - k % n) % n});
        return rows;
      });
  }
}

// ---- partitions

struct Setting {
  int64_t batch_size;
  double restart_prob;
  bool drop_last;
  Hardness hardness;
  uint64_t seed;
  uint32_t epoch;
};

uint32_t threshold(const Setting& setting) { return static_cast<uint32_t>(setting.restart_prob * 4294967296.0); }

// Request: of one of the engines
template <class Request>
Request request_of(const Graph& graph, const Setting& setting) {
  Request request;
  request.graph = graph.view<decltype(request.graph)>();
  request.batch_size = setting.batch_size;
  request.restart_threshold = threshold(setting);
  request.drop_last = setting.drop_last;
  request.hardness = setting.hardness;
  request.seed = setting.seed;
  request.epoch = setting.epoch;
  return request;
}

// Computes the reference walks of a request with the CPU engine. nodes: [num_walks, batch_size]
void walk(const Graph& graph, const Setting& setting, int64_t num_walks, int32_t* nodes) {
  Silent silent;
  const KeyedPermutation order(static_cast<uint32_t>(graph.num_rows), setting.seed, Purpose::kRootOrder, setting.epoch,
                               0);
  std::vector<int64_t> roots, walk_ids, unused(static_cast<size_t>(num_walks));
  for (int64_t i = 0; i < num_walks; ++i) {
    roots.push_back(order(static_cast<uint32_t>(i)));
    walk_ids.push_back(i);
  }
  WalkRequest walks;
  walks.graph = graph.view<GraphView>();
  walks.roots = roots.data();
  walks.walk_ids = walk_ids.data();
  walks.num_walks = num_walks;
  walks.batch_size = setting.batch_size;
  walks.restart_threshold = threshold(setting);
  walks.seed = setting.seed;
  walks.epoch = setting.epoch;
  walk_batches(walks, {nodes, unused.data(), unused.data(), unused.data(), unused.data()}, silent);
}

struct Output {
  std::vector<int32_t> nodes;  // [num_rows]
  int64_t num_filled;
  std::vector<uint64_t> status;
};

// walk_nodes: output of walk()
Output cuda_partition(const Graph& graph, const Setting& setting, const std::vector<int32_t>& walk_nodes) {
  const DeviceArray<int32_t> neighbors(graph.neighbors), degrees(graph.degrees), row_of(graph.row_of),
      walks(walk_nodes);
  DeviceArray<int32_t> nodes(static_cast<size_t>(graph.num_rows), -7);
  DeviceArray<uint64_t> status(cuda::kNumStatusWords, cuda::kNoReport);
  cuda::PartitionRequest request = request_of<cuda::PartitionRequest>(graph, setting);
  request.graph.neighbors = neighbors.data();
  if (request.graph.degrees != nullptr) request.graph.degrees = degrees.data();
  if (request.graph.row_of != nullptr) request.graph.row_of = row_of.data();
  request.walk_nodes = walks.data();
  Scratch scratch(cuda::partition_scratch_bytes(request));
  Reader reader;
  const int64_t num_filled =
      cuda::partition_epoch(request, nodes.data(), scratch.data(), status.data(), nullptr, reader);
  return {nodes.to_host(), num_filled, status.to_host()};
}

void compare(const Graph& graph, const Setting& setting) {
  const std::string name = graph.name + ", " + std::to_string(graph.num_rows) + " rows, batches of " +
                           std::to_string(setting.batch_size) + (setting.drop_last ? ", drop_last" : "") +
                           ", hardness " + std::to_string(static_cast<int>(setting.hardness)) + ", seed " +
                           std::to_string(setting.seed);
  Silent silent;
  const auto request = request_of<PartitionRequest>(graph, setting);
  std::vector<int32_t> expected(static_cast<size_t>(graph.num_rows), -7);
  const int64_t expected_filled = partition_epoch(request, expected.data(), silent);

  const int64_t num_walks = cuda::num_reference_walks(request_of<cuda::PartitionRequest>(graph, setting));
  std::vector<int32_t> walk_nodes(static_cast<size_t>(num_walks * setting.batch_size));
  if (num_walks > 0) walk(graph, setting, num_walks, walk_nodes.data());
  const Output found = cuda_partition(graph, setting, walk_nodes);
  expect(found.num_filled == expected_filled, name + ": number of filled rows");
  expect(found.nodes == expected, name + ": batches");
  for (const uint64_t word : found.status) expect(word == cuda::kNoReport, name + ": nothing to report");
  ++num_compared;
  num_rows_compared += graph.num_rows;
  num_rows_filled += found.num_filled;
}

void test_graphs() {
  Random random(3);
  const int64_t batch_sizes[] = {2, 7, 32, 64, 1};
  int index = 0;
  for (int kind = 0; kind < kNumGraphKinds; ++kind) {
    for (int i = 0; i < (kIsSmall ? 1 : 3); ++i) {
      const int64_t batch_size = batch_sizes[(kind + i) % 5];
      const int64_t remainder = index % 3 == 0 ? 0 : index % 3 == 1 ? 1 : batch_size - 1;
      const int64_t target = batch_size <= 2 || kIsSmall ? 60 : 100 + 40 * (index % 3);
      Graph graph = graph_of_kind(kind, target / batch_size * batch_size + remainder, random);
      const auto hardness = static_cast<Hardness>(index / 2 % 3);
      use_schedule(static_cast<uint64_t>(1 + index % 7));
      compare(graph, {batch_size, index % 2 == 0 ? 0.2 : 0.0, index % 4 == 1, hardness, 1000u + random(),
                      static_cast<uint32_t>(index)});
      ++index;
    }
  }
}

// Compares one graph under all hardness values and several schedules, so that batches both harden and soften.
void test_hardness() {
  Random random(5);
  for (const int kind : {0, 1, 8, 9}) {
    Graph graph = graph_of_kind(kind, kIsSmall ? 100 : 200, random);
    for (int hardness = 0; hardness < 3; ++hardness) {
      use_schedule(static_cast<uint64_t>(11 + hardness));
      compare(graph, {16, 0.2, false, static_cast<Hardness>(hardness), 5, 1});
      if (kIsSmall) break;
    }
  }
}

void test_small() {
  Random random(9);
  use_schedule(4);
  for (int64_t num_rows = 1; num_rows <= 9; ++num_rows) {
    Graph graph = graph_of_kind(static_cast<int>(num_rows) % 3, num_rows, random);
    for (const int64_t batch_size : {int64_t{1}, int64_t{2}, num_rows, num_rows + 1, int64_t{100}}) {
      for (const bool drop_last : {false, true}) compare(graph, {batch_size, 0.2, drop_last, Hardness::kDefault, 1, 2});
    }
    if (kIsSmall && num_rows == 4) break;
  }
}

// Has so many rows that scans take several chunks and grid-stride loops several rounds.
void test_large() {
  if (kIsSmall) return;
  Random random(13);
  use_schedule(0);
  Graph graph = graph_of_kind(9, 8201, random);
  compare(graph, {1, 0.2, false, Hardness::kHard, 3, 0});
}

// Ids that changed after the table was checked are reported and never followed. The result is still a partition.
void test_bad_ids() {
  Random random(17);
  Graph graph = graph_of_kind(0, 150, random);
  for (int64_t row = 3; row < 150; row += 5) {
    for (int64_t k = row % 12; k < 12; ++k)
      graph.neighbors[row * 12 + k] = static_cast<int32_t>(row % 2 == 0 ? -row : 150 + k);
  }
  const Setting setting{16, 0.2, false, Hardness::kDefault, 8, 0};
  const int64_t num_walks = cuda::num_reference_walks(request_of<cuda::PartitionRequest>(graph, setting));
  std::vector<int32_t> walk_nodes(static_cast<size_t>(num_walks * 16));
  for (size_t i = 0; i < walk_nodes.size(); ++i) walk_nodes[i] = static_cast<int32_t>(i % 150) - 1;
  const Output found = cuda_partition(graph, setting, walk_nodes);
  expect(found.status[static_cast<int>(cuda::StatusKind::kNeighborNotARow)] == (uint64_t{3} << 32 | 153),
         "bad id reported");
  std::vector<int32_t> sorted = found.nodes, rows(150);
  std::sort(sorted.begin(), sorted.end());
  std::iota(rows.begin(), rows.end(), 0);
  expect(sorted == rows, "partition of a bad table");
}

}  // namespace

int main() {
  test_select();
  test_graphs();
  test_hardness();
  test_small();
  test_large();
  test_bad_ids();
  if (num_failures == 0) {
    std::printf("partition_test passed: %lld partitions, %lld rows of which %lld filled, %lld reads\n",
                static_cast<long long>(num_compared), static_cast<long long>(num_rows_compared),
                static_cast<long long>(num_rows_filled), static_cast<long long>(num_reads));
  } else {
    std::printf("partition_test: %d FAILED\n", num_failures);
  }
  return num_failures == 0 ? 0 : 1;
}
