// Compares the CUDA engine's walks with the CPU engine's: batches, counts, roots and errors must be equal.
//
// Compiled by g++, it executes the kernels in the emulator, under several schedules. Compiled by nvcc (-x cu), it runs
// them on a GPU. Only the scalar instruction set of the CPU engine is linked: tests/cpu/isa_test.cpp compares the
// others.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/permutation.h"
#include "cpu/walk/batch_walks.h"
#include "cpu/walk/row_degrees.h"
#include "cuda/runtime/status.h"
#include "cuda/walk/walks.h"
#include "kernels/checks.h"
#include "kernels/device_array.h"
#include "kernels/scalar_kernels.h"

namespace {

using namespace bse;
using namespace bse::test;

int64_t num_walks_compared = 0, num_steps_compared = 0;

// ---- graphs

// Neighbor lists of instance ids, and the instance of each row.
struct Graph {
  std::string name;
  std::vector<std::vector<int32_t>> lists;
  std::vector<int32_t> rows;  // empty: row i is instance i
  int64_t num_instances = 0;
};

Graph graph_of(const std::string& name, int num_rows, const std::function<std::vector<int32_t>(int)>& list) {
  Graph graph;
  graph.name = name;
  graph.num_instances = num_rows;
  for (int row = 0; row < num_rows; ++row) graph.lists.push_back(list(row));
  return graph;
}

Graph random_graph(int num_rows, int num_neighbors, std::mt19937& random) {
  return graph_of("random", num_rows, [&](int) {
    std::vector<int32_t> list;
    for (int k = 0; k < num_neighbors; ++k) list.push_back(static_cast<int32_t>(random() % num_rows));
    return list;
  });
}

// Rows of 0 to 9 neighbors, more than a quarter of them empty.
Graph short_rows(int num_rows, std::mt19937& random) {
  Graph graph = random_graph(num_rows, 9, random);
  graph.name = "short rows";
  for (auto& list : graph.lists) list.resize(random() % 5 == 0 ? 0 : random() % 10);
  return graph;
}

// A third of the instances have a row. The others are never neighbors.
Graph subset(int num_rows, std::mt19937& random) {
  Graph graph = short_rows(num_rows, random);
  graph.name = "subset";
  graph.num_instances = 3 * num_rows + 1;
  std::vector<int32_t> instances(static_cast<size_t>(graph.num_instances));
  for (size_t i = 0; i < instances.size(); ++i) instances[i] = static_cast<int32_t>(i);
  std::shuffle(instances.begin(), instances.end(), random);
  graph.rows.assign(instances.begin(), instances.begin() + num_rows);
  for (auto& list : graph.lists) {
    for (int32_t& id : list) id = graph.rows[static_cast<size_t>(id)];
  }
  return graph;
}

std::vector<Graph> awkward_graphs(std::mt19937& random) {
  const int n = 40;
  std::vector<Graph> graphs;
  graphs.push_back(random_graph(n, 6, random));
  graphs.push_back(random_graph(3 * n, 1, random));
  graphs.push_back(short_rows(2 * n, random));
  graphs.push_back(subset(n, random));
  graphs.push_back(graph_of("ring", n, [&](int i) { return std::vector<int32_t>{(i + 1) % n}; }));
  graphs.push_back(graph_of("self-loops", n, [](int i) { return std::vector<int32_t>{i, i}; }));
  graphs.push_back(graph_of("dead ends", n, [&](int i) {
    return i % 2 == 0 ? std::vector<int32_t>{i + 1, (i + 7) % n} : std::vector<int32_t>{};
  }));
  graphs.push_back(graph_of("no edges", n, [](int) { return std::vector<int32_t>{}; }));
  graphs.push_back(graph_of("components of five", n, [](int i) {
    return std::vector<int32_t>{i - i % 5 + (i + 1) % 5, i - i % 5 + (i + 2) % 5};
  }));
  graphs.push_back(graph_of(
      "star", n, [&](int i) { return i == 0 ? std::vector<int32_t>{1, n / 2, n - 1} : std::vector<int32_t>{0}; }));
  graphs.push_back(graph_of("one row", 1, [](int) { return std::vector<int32_t>{0}; }));
  return graphs;
}

// The graph in memory of the host.
class Tables {
 public:
  explicit Tables(const Graph& graph)
      : num_neighbors_(longest(graph)),
        neighbors_(graph.lists.size() * num_neighbors_, -1),
        degrees_(graph.lists.size()),
        row_of_(graph.rows.empty() ? 0 : static_cast<size_t>(graph.num_instances), -1) {
    for (size_t row = 0; row < graph.lists.size(); ++row) {
      const std::vector<int32_t>& list = graph.lists[row];
      for (size_t k = 0; k < list.size(); ++k) neighbors_[row * num_neighbors_ + k] = list[k];
      degrees_[row] = static_cast<int32_t>(list.size());
      all_full_ &= list.size() == num_neighbors_;
    }
    for (size_t row = 0; row < graph.rows.size(); ++row) {
      row_of_[static_cast<size_t>(graph.rows[row])] = static_cast<int32_t>(row);
    }
    view_.neighbors = neighbors_.data();
    view_.num_rows = static_cast<int64_t>(graph.lists.size());
    view_.num_neighbors = static_cast<int64_t>(num_neighbors_);
    view_.degrees = all_full_ ? nullptr : degrees_.data();
    view_.row_of = graph.rows.empty() ? nullptr : row_of_.data();
    view_.num_instances = graph.num_instances;
  }

  const GraphView& cpu() const { return view_; }
  const std::vector<int32_t>& neighbors() const { return neighbors_; }
  const std::vector<int32_t>& degrees() const { return degrees_; }
  const std::vector<int32_t>& row_of() const { return row_of_; }
  int32_t& neighbor(int64_t row, int64_t k) { return neighbors_[static_cast<size_t>(row * view_.num_neighbors + k)]; }
  void set_row_of(int32_t id, int32_t row) { row_of_[static_cast<size_t>(id)] = row; }

 private:
  static size_t longest(const Graph& graph) {
    size_t longest = 1;
    for (const auto& list : graph.lists) longest = std::max(longest, list.size());
    return longest;
  }

  size_t num_neighbors_;
  std::vector<int32_t> neighbors_, degrees_, row_of_;
  bool all_full_ = true;
  GraphView view_;
};

// A copy of the graph in memory of the device.
class DeviceTables {
 public:
  explicit DeviceTables(const Tables& tables)
      : neighbors_(tables.neighbors()), degrees_(tables.degrees()), row_of_(tables.row_of()) {
    const GraphView& host = tables.cpu();
    view_ = {neighbors_.data(),
             host.num_rows,
             host.num_neighbors,
             host.degrees != nullptr ? degrees_.data() : nullptr,
             host.row_of != nullptr ? row_of_.data() : nullptr,
             host.num_instances};
  }

  const cuda::GraphView& view() const { return view_; }

 private:
  DeviceArray<int32_t> neighbors_, degrees_, row_of_;
  cuda::GraphView view_;
};

// ---- walks

struct Case {
  int64_t num_walks = 5, batch_size = 8;
  double restart_prob = 0.2;
  uint64_t seed = 1;
  uint32_t epoch = 0;
  int64_t first_walk = 0;
  bool has_walk_ids = false;
  bool is_uniform = false;

  uint32_t threshold() const { return static_cast<uint32_t>(restart_prob * 4294967296.0); }
  std::string describe(const Graph& graph) const {
    return graph.name + " of " + std::to_string(graph.lists.size()) + ", batch_size " + std::to_string(batch_size) +
           ", alpha " + std::to_string(restart_prob) + (is_uniform ? ", uniform" : "") + ", seed " +
           std::to_string(seed);
  }
};

// Output of one call of either engine.
struct Output {
  explicit Output(const Case& c)
      : nodes(static_cast<size_t>(c.num_walks * c.batch_size), -7), counts(static_cast<size_t>(4 * c.num_walks), -7) {}
  std::vector<int32_t> nodes;
  std::vector<int64_t> counts;  // [4, num_walks]
};

using Ids = std::vector<int64_t>;

template <class Request, class Graph>
Request request_of(const Graph& graph, const Case& c, const int64_t* roots, const int64_t* walk_ids) {
  Request request;
  request.graph = graph;
  request.strategy = c.is_uniform ? Strategy::kUniform : Strategy::kWalk;
  request.roots = roots;
  request.walk_ids = walk_ids;
  request.num_walks = c.num_walks;
  request.batch_size = c.batch_size;
  request.restart_threshold = c.threshold();
  request.seed = c.seed;
  request.epoch = c.epoch;
  return request;
}

void walk_on_cpu(const Tables& tables, const Case& c, const Ids& roots, const Ids& walk_ids, Output& output) {
  const auto request = request_of<WalkRequest>(tables.cpu(), c, roots.data(), walk_ids.data());
  Silent monitor;
  int64_t* const counts = output.counts.data();
  const int64_t n = c.num_walks;
  walk_batches(request, {output.nodes.data(), counts, counts + n, counts + 2 * n, counts + 3 * n}, monitor);
}

// Returns the message of the reported error, empty if there is none.
std::string walk_on_device(const Tables& tables, const Case& c, const Ids& roots, const Ids& walk_ids, Output& output) {
  const DeviceTables device_tables(tables);
  const DeviceArray<int64_t> device_roots(roots), device_walk_ids(walk_ids);
  const auto request =
      request_of<cuda::WalkRequest>(device_tables.view(), c, device_roots.data(), device_walk_ids.data());
  DeviceArray<uint32_t> scratch(cuda::walk_scratch_bytes(request) / sizeof(uint32_t), 0xABABABABu);
  DeviceArray<uint64_t> status(cuda::kNumStatusWords);
  cuda::clear_status(status.data(), nullptr);
  DeviceArray<int32_t> nodes(output.nodes);
  DeviceArray<int64_t> device_counts(output.counts);
  int64_t* const counts = device_counts.data();
  const int64_t n = c.num_walks;
  cuda::launch_walks(request, {nodes.data(), counts, counts + n, counts + 2 * n, counts + 3 * n}, scratch.data(),
                     status.data(), nullptr);
  output.nodes = nodes.to_host();
  output.counts = device_counts.to_host();
  return cuda::status_message(status.to_host().data(), request.graph.num_instances);
}

void compare_walks(const Graph& graph, const Case& c) {
  const Tables tables(graph);
  Ids roots(static_cast<size_t>(c.num_walks)), walk_ids(static_cast<size_t>(c.num_walks));
  for (int64_t i = 0; i < c.num_walks; ++i) {
    const auto at = static_cast<size_t>(i);
    roots[at] = static_cast<int64_t>((static_cast<uint64_t>(i) * 7919 + c.seed) % graph.lists.size());
    walk_ids[at] = c.has_walk_ids ? (i * 2654435761) % (int64_t{1} << 32) : c.first_walk + i;
  }
  Output expected(c), got(c);
  walk_on_cpu(tables, c, roots, walk_ids, expected);
  const std::string message = walk_on_device(tables, c, roots, walk_ids, got);
  expect(message.empty(), message + ": " + c.describe(graph));
  expect(expected.nodes == got.nodes, "nodes: " + c.describe(graph));
  const char* const names[] = {"steps", "restarts", "reroots", "random_fills"};
  for (int kind = 0; kind < 4; ++kind) {
    const int64_t* const begin = expected.counts.data() + kind * c.num_walks;
    expect(std::equal(begin, begin + c.num_walks, got.counts.data() + kind * c.num_walks),
           std::string(names[kind]) + ": " + c.describe(graph));
  }
  num_walks_compared += c.num_walks;
  for (int64_t i = 0; i < c.num_walks; ++i) num_steps_compared += expected.counts[static_cast<size_t>(i)];
}

// Compares two walks on every graph with every alpha and batch size.
void test_awkward_graphs(std::mt19937& random) {
  const std::vector<int64_t> sizes =
      kIsSmall ? std::vector<int64_t>{1, 2, 33} : std::vector<int64_t>{1, 2, 3, 31, 32, 33, 40, 65};
  for (const Graph& graph : awkward_graphs(random)) {
    for (const double restart_prob : {0.0, 0.005, 0.2, 0.6, 0.99}) {
      for (const int64_t batch_size : sizes) {
        if (kIsSmall && restart_prob == 0.99 && batch_size > 2) continue;
        if (restart_prob == 0.005 && batch_size > 33) continue;  // slow, and similar to alpha 0
        Case c;
        c.num_walks = 2;
        c.batch_size = batch_size;
        c.restart_prob = restart_prob;
        c.seed = random();
        c.epoch = static_cast<uint32_t>(random() % (1 << 24));
        compare_walks(graph, c);
      }
    }
  }
}

// Compares batches that are much smaller than the graph, with hardly any random fill.
void test_typical(std::mt19937& random) {
  const Graph graph = random_graph(kIsSmall ? 200 : 3000, 10, random);
  for (const int64_t batch_size : {16, 64, 256}) {
    for (const double restart_prob : {0.05, 0.2, 0.5}) {
      Case c;
      c.num_walks = kIsSmall ? 3 : 40;
      c.batch_size = batch_size;
      c.restart_prob = restart_prob;
      c.seed = uint64_t{random()} << 32 | random();
      compare_walks(graph, c);
    }
  }
}

// Compares batches of random instances without a walk, also where a warp fills several batches.
void test_uniform_batches(std::mt19937& random) {
  std::vector<Graph> graphs = awkward_graphs(random);
  graphs.push_back(random_graph(90, 70, random));
  for (const Graph& graph : graphs) {
    for (const int64_t batch_size : {1, 2, 33, 70}) {
      Case c;
      c.is_uniform = true;
      c.num_walks = batch_size == 33 && graph.lists.size() == 90 && !kIsSmall ? 70 : 3;
      c.batch_size = batch_size;
      c.seed = random();
      c.has_walk_ids = batch_size == 2;
      compare_walks(graph, c);
    }
  }
}

// Compares walks at the limits of epoch and walk numbers, and small numbers of walks.
void test_numbering(std::mt19937& random) {
  const Graph graph = random_graph(100, 5, random);
  Case c;
  for (const uint32_t epoch : {0u, 1u, (1u << 24) - 1}) {
    for (const int64_t first_walk : {int64_t{0}, int64_t{1}, (int64_t{1} << 32) - 5}) {
      for (const bool has_walk_ids : {false, true}) {
        c.epoch = epoch;
        c.first_walk = first_walk;
        c.has_walk_ids = has_walk_ids;
        compare_walks(graph, c);
      }
    }
  }
  for (const int64_t num_walks : {0, 1, 2, 3, 33}) {
    c.num_walks = num_walks;
    compare_walks(graph, c);
  }
}

// Compares batches whose member tables are in global memory. A second walk uses some of the tables again.
void test_large_batches(std::mt19937& random) {
  Case c;
#if !defined(__CUDACC__)
  emulator::Config& config = emulator::config();
  const emulator::Config before = config;
  config.num_multiprocessors = 1;
  config.resident_blocks = 4;
  c.batch_size = 4100;
  c.num_walks = 19;  // 16 at a time
  compare_walks(short_rows(4300, random), c);
  config = before;
  if (kIsSmall) return;
#endif
  c.num_walks = 5;
  c.batch_size = 4200;
  compare_walks(random_graph(5000, 8, random), c);
  c.restart_prob = 0.0;
  compare_walks(random_graph(5000, 8, random), c);
}

// ---- bad values

// Both engines must report an error, or neither.
void test_bad_neighbors(std::mt19937& random) {
  int num_bad = 0, num_good = 0;
  for (int round = 0; round < (kIsSmall ? 10 : 60); ++round) {
    const Graph graph = round % 2 == 0 ? random_graph(60, 4, random) : subset(60, random);
    Tables tables(graph);
    const auto row = static_cast<int64_t>(random() % 60);
    if (graph.lists[static_cast<size_t>(row)].empty()) continue;
    const int32_t bad_ids[] = {-1, -5, static_cast<int32_t>(graph.num_instances), INT32_MAX};
    int32_t bad_id = bad_ids[round / 2 % 4];
    if (round % 4 == 1) {  // an instance that has lost its row
      bad_id = graph.lists[static_cast<size_t>(row)][0];
      tables.set_row_of(bad_id, round % 8 == 1 ? -1 : 60);
    } else {
      tables.neighbor(row, 0) = bad_id;
    }
    Case c;
    c.num_walks = 1;
    c.batch_size = 1 + static_cast<int64_t>(random() % 40);
    c.restart_prob = round % 3 == 0 ? 0.0 : 0.2;
    c.seed = random();
    const Ids roots(1, static_cast<int64_t>(random() % 60)), walk_ids(1, 0);
    Output expected(c), got(c);
    std::string error;
    try {
      walk_on_cpu(tables, c, roots, walk_ids, expected);
    } catch (const std::invalid_argument& exception) {
      error = exception.what();
    }
    const std::string message = walk_on_device(tables, c, roots, walk_ids, got);
    expect(error.empty() == message.empty(), "bad neighbor: '" + message + "', expected '" + error + "'");
    if (error.empty()) {
      ++num_good;
      expect(expected.nodes == got.nodes, "bad neighbor not met");
      continue;
    }
    ++num_bad;
    // Of several bad rows, the CPU engine names the first that the walk visits, the device the lowest.
    if (round % 4 != 1) expect(error == message, "bad neighbor: '" + message + "', expected '" + error + "'");
    std::set<int32_t> distinct(got.nodes.begin(), got.nodes.end());
    expect(static_cast<int64_t>(distinct.size()) == c.batch_size && *distinct.begin() >= 0 && *distinct.rbegin() < 60,
           "a walk that met a bad neighbor is still a batch");
  }
  expect(num_bad > 0 && num_good > 0, "bad neighbors are met, and not met");
}

void test_bad_tables(std::mt19937& random) {
  Graph graph = random_graph(30, 4, random);
  Tables tables(graph);
  for (int64_t row = 0; row < 30; ++row) {
    for (int64_t k = 0; k < 4; ++k) tables.neighbor(row, k) = k % 2 == 0 ? 100 : -7;
  }
  Case c;
  Ids roots(5), walk_ids(5);
  for (size_t i = 0; i < 5; ++i) roots[i] = static_cast<int64_t>(3 * i);
  Output output(c);
  const std::string message = walk_on_device(tables, c, roots, walk_ids, output);
  expect(message.find("expected neighbors that are rows of the graph") != std::string::npos, "nothing but bad ids");
  expect(output.counts[0] == 0 && output.counts[2 * 5] > 0, "nothing but bad ids: no steps, reroots");

  const Tables good(graph);
  roots[1] = -1;
  roots[3] = 30;
  const std::string root_message = walk_on_device(good, c, roots, walk_ids, output);
  expect(root_message == "roots: expected rows of the graph, got -1 for walk 1", "bad roots: " + root_message);
  for (const size_t walk : {1, 3}) {
    const int32_t* const nodes = output.nodes.data() + walk * 8;
    expect(std::count(nodes, nodes + 8, -1) == 8, "a walk with a bad root has no nodes");
    for (size_t kind = 0; kind < 4; ++kind) expect(output.counts[kind * 5 + walk] == 0, "nor counts");
  }
}

// ---- degrees and roots

std::string degrees_on_device(const Tables& tables, std::vector<int32_t>& degrees) {
  const DeviceTables device_tables(tables);
  DeviceArray<int32_t> found(degrees);
  DeviceArray<uint64_t> status(cuda::kNumStatusWords);
  cuda::clear_status(status.data(), nullptr);
  cuda::launch_row_degrees(device_tables.view(), found.data(), status.data(), nullptr);
  degrees = found.to_host();
  return cuda::status_message(status.to_host().data(), tables.cpu().num_instances);
}

std::string degrees_on_cpu(const Tables& tables, std::vector<int32_t>& degrees) {
  Silent monitor;
  ThreadTeam team(1, monitor);
  try {
    row_degrees(team, tables.cpu(), degrees.data());
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void test_row_degrees(std::mt19937& random) {
  for (const int num_neighbors : {1, 4, 31, 32, 33, 64, 70}) {
    Graph graph = random_graph(kIsSmall ? 20 : 100, num_neighbors, random);
    for (auto& list : graph.lists) {
      if (random() % 4 != 0) list.resize(random() % (static_cast<size_t>(num_neighbors) + 1));
    }
    Tables tables(graph);
    const auto num_rows = static_cast<int64_t>(graph.lists.size());
    for (int round = 0; round < 8; ++round) {
      std::vector<int32_t> expected(graph.lists.size(), -7), got(graph.lists.size(), -7);
      const std::string error = degrees_on_cpu(tables, expected), message = degrees_on_device(tables, got);
      expect(error == message, "degrees: '" + message + "', expected '" + error + "'");
      expect(round > 0 || error.empty(), "degrees: " + error);
      expect(!error.empty() || got == expected, "degrees");
      const int32_t values[] = {-1, 0, -2, static_cast<int32_t>(graph.num_instances)};
      tables.neighbor(static_cast<int64_t>(random()) % num_rows,
                      static_cast<int64_t>(random()) % tables.cpu().num_neighbors) = values[random() % 4];
    }
  }
}

void test_roots() {
  for (const uint32_t n : {1u, 2u, 63u, 1000u}) {
    DeviceArray<int64_t> device_order(n, -7), device_roots(77, -7);
    cuda::launch_root_order(n, 5, 3, device_order.data(), nullptr);
    cuda::launch_independent_roots(n, 77, 5, 3, device_roots.data(), nullptr);
    const Ids order = device_order.to_host(), roots = device_roots.to_host();
    const KeyedPermutation permutation(n, 5, Purpose::kRootOrder, 3, 0);
    for (uint32_t i = 0; i < n; ++i) expect(order[i] == permutation(i), "root_order");
    for (uint32_t walk = 0; walk < 77; ++walk) {
      WordStream words(5, Purpose::kRoots, 3, walk, 0);
      expect(roots[walk] == words.next_below(n), "independent_roots");
    }
  }
}

void run_all(uint32_t seed) {
  std::mt19937 random(seed);
  test_awkward_graphs(random);
  test_typical(random);
  test_uniform_batches(random);
  test_numbering(random);
  if (seed == 1) test_large_batches(random);  // takes as long as all other tests
  test_bad_neighbors(random);
  test_bad_tables(random);
  test_row_degrees(random);
  test_roots();
}

}  // namespace

// walk_test [NUM_SEEDS]: on a GPU. One seed is enough for compute-sanitizer, under which it takes long.
int main(int argc, char** argv) {
#if defined(__CUDACC__)
  const int num_seeds = argc > 1 ? std::atoi(argv[1]) : 5;
  for (int seed = 0; seed < num_seeds; ++seed) run_all(static_cast<uint32_t>(seed));
#else
  (void)argc, (void)argv;
  emulator::Config& config = emulator::config();
  for (uint32_t seed = 0; seed < (kIsSmall ? 2 : 3); ++seed) {
    config.seed = seed;
    config.preemption = seed == 1 ? 3 : 16;
    config.resident_blocks = 1 + seed;
    run_all(seed);
  }
#endif
  std::printf("walks: %lld compared, %lld steps: %s\n", static_cast<long long>(num_walks_compared),
              static_cast<long long>(num_steps_compared), num_failures == 0 ? "equal to the CPU engine" : "FAILED");
  return num_failures == 0 ? 0 : 1;
}
