#include <algorithm>

#include "common/permutation.h"
#include "common/random_stream.h"
#include "python/bindings.h"
#include "python/pointers.h"

namespace py = pybind11;

namespace bse {

namespace {

// Writes all positions without the GIL, and answers Ctrl-C.
template <class Out>
void write_permutation(const KeyedPermutation& permutation, int64_t n, Out* out) {
  constexpr int64_t kPositionsBetweenPolls = 1 << 20;
  for (int64_t first = 0; first < n; first += kPositionsBetweenPolls) {
    {
      const py::gil_scoped_release release;
      permutation.write(static_cast<uint32_t>(first), std::min(kPositionsBetweenPolls, n - first), out + first);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

}  // namespace

void register_random(py::module_& module) {
  module.def(
      "philox4x32",
      [](uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
        const PhiloxBlock block = philox4x32(key, c0, c1, c2, c3);
        return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
      },
      "One block of Philox4x32-10.");
  module.def(
      "root_order",
      [](uint32_t n, uint64_t seed, uint32_t epoch, uintptr_t out) {
        require(n > 0 && n < 1u << 31 && epoch < kEpochLimit, "0 < n < 2**31 and an epoch below 2**24");
        write_permutation(KeyedPermutation(n, seed, Purpose::kRootOrder, epoch, 0), n, pointer<int64_t>(out));
      },
      py::kw_only(), py::arg("n"), py::arg("seed"), py::arg("epoch"), py::arg("out"),
      "Keyed permutation of 0..n-1.   out: int64 [n]");
  module.def(
      "group_order",
      [](uint32_t n, uint64_t seed, uintptr_t out) {
        require(n > 0 && n < 1u << 31, "0 < n < 2**31");
        write_permutation(KeyedPermutation(n, seed, Purpose::kGroups, 0, 0), n, pointer<int32_t>(out));
      },
      py::kw_only(), py::arg("n"), py::arg("seed"), py::arg("out"),
      "Row of a graph at each position (csrc/common/requests.h).   out: int32 [n]");
  module.def(
      "independent_roots",
      [](uint32_t n, int64_t num_walks, uint64_t seed, uint32_t epoch, uintptr_t out) {
        require(n > 0 && n < 1u << 31 && epoch < kEpochLimit, "0 < n < 2**31 and an epoch below 2**24");
        auto* roots = pointer<int64_t>(out);
        for (int64_t walk = 0; walk < num_walks; ++walk) {
          roots[walk] = WordStream(seed, Purpose::kRoots, epoch, static_cast<uint32_t>(walk), 0).next_below(n);
        }
      },
      py::kw_only(), py::arg("n"), py::arg("num_walks"), py::arg("seed"), py::arg("epoch"), py::arg("out"),
      "Uniform root of each walk.   out: int64 [num_walks]");
}

}  // namespace bse
