// Random walk with restart as one would write it in C++ at first: one walk at a time, standard library throughout.
#include <cstdint>
#include <random>
#include <unordered_set>

// neighbors: int32 [num_nodes, num_neighbors], roots: int64 [num_walks], nodes: int32 [num_walks, batch_size], written.
extern "C" int64_t plain_walks(const int32_t* neighbors, int64_t num_neighbors, const int64_t* roots, int64_t num_walks,
                               int64_t batch_size, double restart_prob, int32_t* nodes) {
  std::mt19937 generator(0);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::uniform_int_distribution<int64_t> pick(0, num_neighbors - 1);
  int64_t num_steps = 0;
  for (int64_t walk = 0; walk < num_walks; ++walk) {
    std::unordered_set<int32_t> members;
    auto node = static_cast<int32_t>(roots[walk]);
    int64_t size = 0;
    const auto add = [&](int32_t found) {
      if (members.insert(found).second) nodes[walk * batch_size + size++] = found;
    };
    add(node);
    while (size < batch_size) {
      if (uniform(generator) < restart_prob) node = static_cast<int32_t>(roots[walk]);
      node = neighbors[node * num_neighbors + pick(generator)];
      add(node);
      ++num_steps;
    }
  }
  return num_steps;
}
