// The shared memory of one block: pieces between red zones, filled with garbage at first.
//
// AddressSanitizer reports an access to a red zone at once. Without it, the pattern of the red zones is checked when
// the block ends.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "emulator/detail/random.h"
#include "emulator/detail/sanitizers.h"

namespace bse::emulator {
namespace {

struct SharedPiece {
  const void* key;
  unsigned char* begin;
  size_t num_bytes;
  const char* name;
};

class SharedArena {
 public:
  SharedArena() = default;
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;
  ~SharedArena() { free_memory(); }

  void begin_block(size_t max_shared_bytes) {
    UnseenByTsan unseen;
    const size_t capacity = max_shared_bytes + kMaxPieces * (kPieceAlignment + 2 * kRedZone);
    // New memory has no history. In old memory, ThreadSanitizer would see races between blocks.
    if (memory_ == nullptr || capacity_ != capacity || has_tsan()) {
      free_memory();
      capacity_ = capacity;
      memory_ = static_cast<unsigned char*>(
          std::aligned_alloc(kPieceAlignment, capacity / kPieceAlignment * kPieceAlignment));
      if (memory_ == nullptr) throw std::bad_alloc();
    }
    next_ = memory_;
    pieces_.clear();
    poison(memory_, capacity_);
  }

  const SharedPiece* find(const void* key) const {
    for (const SharedPiece& piece : pieces_) {
      if (piece.key == key) return &piece;
    }
    return nullptr;
  }

  // Adds a piece. Returns null if there is no room for it.
  const SharedPiece* add(const void* key, size_t num_bytes, const char* name, Random& random) {
    UnseenByTsan unseen;
    unsigned char* const begin = next_ + kRedZone;
    unsigned char* const end = begin + num_bytes;
    unsigned char* const next =
        begin + (num_bytes + kRedZone + kPieceAlignment - 1) / kPieceAlignment * kPieceAlignment;
    if (next > memory_ + capacity_) return nullptr;
    unpoison(next_, static_cast<size_t>(next - next_));
    for (unsigned char* byte = next_; byte < begin; ++byte) *byte = pattern(byte);
    fill_with_garbage(begin, num_bytes, random);
    for (unsigned char* byte = end; byte < next; ++byte) *byte = pattern(byte);
    poison(next_, static_cast<size_t>(next - next_));
    unpoison(begin, num_bytes);
    next_ = next;
    pieces_.push_back({key, begin, num_bytes, name});
    return &pieces_.back();
  }

  bool contains(const void* address, size_t num_bytes) const {
    const auto* const begin = static_cast<const unsigned char*>(address);
    for (const SharedPiece& piece : pieces_) {
      if (begin >= piece.begin && begin + num_bytes <= piece.begin + piece.num_bytes) return true;
    }
    return false;
  }

  struct Damage {
    const SharedPiece* piece;  // null: no damage
    bool behind;
  };

  // Ends the use of all pieces and checks their red zones. Returns the first damage.
  Damage end_block() {
    UnseenByTsan unseen;
    unpoison(memory_, capacity_);
    for (const SharedPiece& piece : pieces_) {
      const unsigned char* const end = piece.begin + piece.num_bytes;
      for (int i = 1; i <= kRedZone; ++i) {
        if (piece.begin[-i] != pattern(piece.begin - i)) return {&piece, false};
      }
      for (int i = 0; i < kRedZone; ++i) {
        if (end[i] != pattern(end + i)) return {&piece, true};
      }
    }
    return {nullptr, false};
  }

 private:
  static constexpr int kRedZone = 128;
  static constexpr size_t kPieceAlignment = 128, kMaxPieces = 64;

  static unsigned char pattern(const unsigned char* address) {
    return static_cast<unsigned char>(reinterpret_cast<uintptr_t>(address) * 37 ^ 0xA5);
  }

  static void fill_with_garbage(unsigned char* begin, size_t num_bytes, Random& random) {
    for (size_t i = 0; i < num_bytes; i += 8) {
      const uint64_t garbage = random.next();
      const size_t size = num_bytes - i < 8 ? num_bytes - i : 8;
      __builtin_memcpy(begin + i, &garbage, size);
    }
  }

  void free_memory() {
    if (memory_ == nullptr) return;
    unpoison(memory_, capacity_);
    std::free(memory_);
    memory_ = nullptr;
  }

  unsigned char *memory_ = nullptr, *next_ = nullptr;
  size_t capacity_ = 0;
  std::vector<SharedPiece> pieces_;
};

}  // namespace
}  // namespace bse::emulator
