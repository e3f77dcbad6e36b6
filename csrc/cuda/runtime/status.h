// How kernels report bad values: a word in device memory for each kind, read by the host whenever it next waits anyway.
//
// A word holds the first report of its kind in the order (where, value), so that what is reported does not depend on
// which thread was first. All bits set: nothing to report; that is also how the words must begin.
#pragma once

#include <cstdint>
#include <string>

namespace bse::cuda {

enum class StatusKind : int {
  kIdOutOfRange = 0,       // row_degrees: where = row
  kGapInPrefix = 1,        // row_degrees: where = row
  kRootNotARow = 2,        // walks: where = index of the walk, value = the low 32 bits of its root
  kNeighborNotARow = 3,    // walks: where = row, value = the neighbor's id
  kFeatureNotFinite = 4,   // graphs: where = row of the features, value = column
  kDocumentNotFinite = 5,  // graphs: the same of the keys, or of knn's base
  // Of bank updates: where = position in the update, value = instance, or the id as near as 32 bits come to it.
  kBankIdOutOfRange = 6,
  kBankRowNotStorable = 7,
  kBankDocumentNotStorable = 8,
};

constexpr int kNumStatusWords = 9;
constexpr uint64_t kNoReport = ~uint64_t{0};

// What the arrays of a call are named by its user.
struct ArgumentNames {
  const char *features = "features", *documents = "documents";
};

// Of status words that were copied to the host, the error in the CPU engine's words; empty if there is none.
inline std::string status_message(const uint64_t* status /* [kNumStatusWords] */, int64_t num_instances,
                                  const ArgumentNames& names = {}) {
  const auto word = [&](StatusKind kind) { return status[static_cast<int>(kind)]; };
  const auto where = [&](StatusKind kind) { return std::to_string(word(kind) >> 32); };
  const auto value = [&](StatusKind kind) {
    return std::to_string(static_cast<int32_t>(static_cast<uint32_t>(word(kind))));
  };
  const uint64_t out_of_range = word(StatusKind::kIdOutOfRange), gap = word(StatusKind::kGapInPrefix);
  if (out_of_range != kNoReport && out_of_range < gap) {
    return "graph: expected neighbors in [-1, " + std::to_string(num_instances) + "), got another value in row " +
           where(StatusKind::kIdOutOfRange);
  }
  if (gap != kNoReport) {
    return "graph: expected a valid prefix and then -1, got -1 before a neighbor in row " +
           where(StatusKind::kGapInPrefix);
  }
  if (word(StatusKind::kRootNotARow) != kNoReport) {
    return "roots: expected rows of the graph, got " + value(StatusKind::kRootNotARow) + " for walk " +
           where(StatusKind::kRootNotARow);
  }
  if (word(StatusKind::kNeighborNotARow) != kNoReport) {
    return "graph: expected neighbors that are rows of the graph, got " + value(StatusKind::kNeighborNotARow) +
           " in row " + where(StatusKind::kNeighborNotARow);
  }
  const auto not_finite = [&](const char* name, StatusKind kind) {
    return std::string(name) + "[" + where(kind) + ", " + value(kind) + "]: expected finite values";
  };
  if (word(StatusKind::kFeatureNotFinite) != kNoReport)
    return not_finite(names.features, StatusKind::kFeatureNotFinite);
  if (word(StatusKind::kDocumentNotFinite) != kNoReport) return not_finite(names.documents, StatusKind::kDocumentNotFinite);
  if (word(StatusKind::kBankIdOutOfRange) != kNoReport) {
    return "indices: expected values in [0, " + std::to_string(num_instances) + "), got " +
           value(StatusKind::kBankIdOutOfRange) + " at position " + where(StatusKind::kBankIdOutOfRange);
  }
  const auto not_storable = [&](const char* name, StatusKind kind) {
    return std::string(name) + ": expected values that are finite in the bank's dtype, got others for instance " +
           value(kind) + " at position " + where(kind);
  };
  if (word(StatusKind::kBankRowNotStorable) != kNoReport)
    return not_storable(names.features, StatusKind::kBankRowNotStorable);
  if (word(StatusKind::kBankDocumentNotStorable) != kNoReport)
    return not_storable(names.documents, StatusKind::kBankDocumentNotStorable);
  return "";
}

}  // namespace bse::cuda
