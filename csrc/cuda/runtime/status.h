// Bad values that kernels report: one word in device memory per kind. The host reads the words when it next waits for
// the device anyway.
//
// A word holds the smallest report of its kind, where << 32 | value, so the result does not depend on which thread
// reports first. A word with all bits set means no report. Words must begin in that state.
#pragma once

#include <cstdint>
#include <string>

#include "common/score.h"

namespace bse::cuda {

enum class StatusKind : int {
  kIdOutOfRange = 0,     // row_degrees: where = row
  kGapInPrefix = 1,      // row_degrees: where = row
  kRootNotARow = 2,      // walks: where = index of the walk, value = the low 32 bits of its root
  kNeighborNotARow = 3,  // walks: where = row, value = the neighbor's id
  // Graphs: value = column of an element that is not finite, or kWholeRow if cosines of the row are not accurate.
  kBadFeature = 4,   // where = row of the features
  kBadDocument = 5,  // where = row of the documents, or of the base of a kNN search
  // Bank updates: where = position in the update, value = instance id, clamped to 32 bits.
  kBankIdOutOfRange = 6,
  kBankRowNotStorable = 7,
  kBankDocumentNotStorable = 8,
};

constexpr int kNumStatusWords = 9;
constexpr uint64_t kNoReport = ~uint64_t{0};
constexpr uint32_t kWholeRow = ~uint32_t{0};

// Names of the arrays in the user's call.
struct ArgumentNames {
  const char *features = "features", *documents = "documents";
};

// Returns the error message of status words that were copied to the host, or an empty string if nothing was reported.
// The texts are those of the CPU engine.
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
  const auto bad_row = [&](const char* name, StatusKind kind) {
    const std::string place = std::string(name) + "[" + where(kind);
    if (static_cast<uint32_t>(word(kind)) == kWholeRow) return place + "]: " + kNormExpected;
    return place + ", " + value(kind) + "]: expected finite values";
  };
  if (word(StatusKind::kBadFeature) != kNoReport) return bad_row(names.features, StatusKind::kBadFeature);
  if (word(StatusKind::kBadDocument) != kNoReport) return bad_row(names.documents, StatusKind::kBadDocument);
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
