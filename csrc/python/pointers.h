// What all bindings share: borrowed pointers passed as integers, and cheap invariants checked again.
//
// batchsampler_ext/*.py validates arguments and words the errors; a failed check here is a bug in the caller.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/float_types.h"

namespace bse {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(std::string("engine: expected ") + what);
}

inline DType dtype_of_code(int code) {
  require(code >= 0 && code <= 2, "a dtype code from 0 to 2");
  return static_cast<DType>(code);
}

// View: a struct as MatrixView.      (address, dtype code, num_rows, dim, row stride in elements, round to bfloat16)
template <class View>
View matrix_view(const pybind11::tuple& description) {
  require(description.size() == 6, "a matrix described by six values");
  View view;
  view.data = pointer<const void>(description[0].cast<uintptr_t>());
  view.dtype = dtype_of_code(description[1].cast<int>());
  view.num_rows = description[2].cast<int64_t>();
  view.dim = description[3].cast<int64_t>();
  view.row_stride_elements = description[4].cast<int64_t>();
  view.round_to_bf16 = description[5].cast<bool>();
  require(view.data != nullptr && view.num_rows > 0 && view.dim > 0, "a matrix that is not empty");
  return view;
}

// View: a struct as GraphView.      (neighbors, num_rows, num_neighbors, degrees or 0, row_of or 0, num_instances)
template <class View>
View graph_view(const pybind11::tuple& description) {
  require(description.size() == 6, "a graph described by six values");
  View graph;
  graph.neighbors = pointer<const int32_t>(description[0].cast<uintptr_t>());
  graph.num_rows = description[1].cast<int64_t>();
  graph.num_neighbors = description[2].cast<int64_t>();
  graph.degrees = pointer<const int32_t>(description[3].cast<uintptr_t>());
  graph.row_of = pointer<const int32_t>(description[4].cast<uintptr_t>());
  graph.num_instances = description[5].cast<int64_t>();
  require(graph.num_rows > 0 && graph.num_instances < int64_t{1} << 31, "1 <= rows and fewer than 2**31 nodes");
  return graph;
}

}  // namespace bse
