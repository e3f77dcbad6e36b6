// Keeps equal ids in different batches. batchsampler_ext/reference/keep_apart.py defines the result and says why the
// repair ends.
//
// One thread swaps one pair after the other, and a hash table counts the members of each batch with each id. A swap
// costs O(K) for each of a few candidates. Chains are searched only if there is no swap, in O(members x batches) at
// worst. O(instances + members x columns) memory.
#include "cpu/partition/keep_apart.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <tuple>
#include <vector>

#include "common/hash.h"

namespace bse {

namespace {

constexpr int64_t kMaxNear = 8, kNumNearBatches = 2, kNumProbes = 8;
constexpr int64_t kNumRandomProbes = 256, kMaxRandom = 4;
constexpr int64_t kMaxRefinements = 3;
constexpr int64_t kMaxShakes = 64, kNumShakeProbes = 8, kMaxVisits = int64_t{1} << 27;
constexpr int64_t kPartnerLoss = int64_t{1} << 20;
constexpr int32_t kNone = -1;

// Counts by 64-bit key. Keys stay when their count falls to 0, until the table grows.
class CountTable {
 public:
  explicit CountTable(int64_t max_keys) { resize(max_keys); }

  int32_t operator[](uint64_t key) const {
    const size_t slot = find(key);
    return slots_[slot].key == key ? slots_[slot].count : 0;
  }

  void add(uint64_t key, int32_t amount) {
    size_t slot = find(key);
    if (slots_[slot].key == kEmpty) {
      if (2 * (num_used_ + 1) > static_cast<int64_t>(slots_.size())) {
        grow();
        slot = find(key);
      }
      slots_[slot].key = key;
      ++num_used_;
    }
    slots_[slot].count += amount;
  }

  int64_t sum_above(int64_t limit) const {
    int64_t sum = 0;
    for (const Slot& slot : slots_) sum += std::max<int64_t>(0, slot.count - limit);
    return sum;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    int32_t count = 0;
  };

  size_t find(uint64_t key) const {
    size_t slot = mix64(key) & (slots_.size() - 1);
    while (slots_[slot].key != key && slots_[slot].key != kEmpty) slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  void resize(int64_t max_keys) {
    size_t size = 16;
    while (static_cast<int64_t>(size) < 4 * max_keys) size *= 2;
    slots_.assign(size, Slot{});
    num_used_ = 0;
  }

  void grow() {
    const std::vector<Slot> old = std::move(slots_);
    const int64_t num_live = std::count_if(old.begin(), old.end(), [](const Slot& slot) { return slot.count > 0; });
    resize(num_live + 1);
    for (const Slot& slot : old) {
      if (slot.count > 0) {
        slots_[find(slot.key)] = slot;
        ++num_used_;
      }
    }
  }

  std::vector<Slot> slots_;
  int64_t num_used_ = 0;
};

class Repair {
 public:
  Repair(const KeepApartRequest& request, Monitor& monitor)
      : request_(request),
        monitor_(monitor),
        members_(request.members),
        count_(request.num_members * request.num_columns),
        position_(static_cast<size_t>(request.num_instances), kNone),
        batch_(static_cast<size_t>(request.num_instances), kNone),
        row_(static_cast<size_t>(request.num_instances), kNone),
        batch_at_(static_cast<size_t>(request.num_members)),
        votes_(static_cast<size_t>(request.num_batches), 0) {
    for (int64_t batch = 0; batch < request.num_batches; ++batch) {
      std::fill(batch_at_.begin() + start(batch), batch_at_.begin() + start(batch + 1), static_cast<int32_t>(batch));
    }
    for (int64_t position = 0; position < request.num_members; ++position) {
      check_interrupt(position);
      row_[members_[position]] = static_cast<int32_t>(position);
      place(members_[position], position);
    }
  }

  KeepApartResult run() {
    const int64_t num_inside_before = num_inside();
    clear_all();
    std::vector<int64_t> left = move_along_chains();
    for (int64_t i = 0; i < kMaxShakes && request_.num_columns > 1 && !left.empty() && num_visits_ <= kMaxVisits; ++i) {
      shake(left[below(static_cast<int64_t>(left.size()))]);
      clear_all();
      left = move_along_chains();
    }
    if (left.empty()) {
      for (int64_t i = 0; i < kMaxRefinements && num_inside() < num_inside_before; ++i) refine();
      for (int64_t position = 0; position < request_.num_members; ++position) {
        check_interrupt(position);
        if (num_partners(members_[position], batch_at_[position], kNone) > 0) swap_best(position, Aim::kPartners);
      }
    }
    int64_t num_met = 0;
    for (int64_t position = 0; position < request_.num_members; ++position) {
      check_interrupt(position);
      num_met += num_partners(members_[position], batch_at_[position], kNone);
    }
    return {count_.sum_above(request_.max_per_batch), num_met / 2};
  }

 private:
  int64_t start(int64_t batch) const { return request_.starts[batch]; }
  int64_t size_of(int64_t batch) const { return start(batch + 1) - start(batch); }

  // --- the state ---------------------------------------------------------------------------------------------------
  int64_t below(int64_t n) {
    return static_cast<int64_t>((keyed_hash(request_.key, ++num_drawn_) >> 32) * static_cast<uint64_t>(n) >> 32);
  }

  const int32_t* codes(int32_t x) const { return request_.codes + row_[x] * request_.num_columns; }
  uint64_t cell(int64_t batch, int32_t code) const {
    return static_cast<uint64_t>(batch) * static_cast<uint64_t>(request_.num_codes) + static_cast<uint64_t>(code);
  }

  // Fall of the excess if x leaves its batch.
  int64_t released(int32_t x) const {
    int64_t sum = 0;
    for (int64_t c = 0; c < request_.num_columns; ++c) {
      const int32_t code = codes(x)[c];
      sum += code >= 0 && count_[cell(batch_[x], code)] > request_.max_per_batch;
    }
    return sum;
  }

  // Rise of the excess if x enters a batch that `leaving` leaves, or nothing leaves (kNone).
  int64_t added(int32_t x, int64_t batch, int32_t leaving) const {
    int64_t sum = 0;
    for (int64_t c = 0; c < request_.num_columns; ++c) {
      const int32_t code = codes(x)[c];  // columns share no codes
      if (code < 0) continue;
      const bool leaves = leaving != kNone && codes(leaving)[c] == code;
      sum += count_[cell(batch, code)] - leaves >= request_.max_per_batch;
    }
    return sum;
  }

  int64_t num_partners(int32_t x, int32_t batch, int32_t leaving) const {
    int64_t sum = 0;
    for (int64_t i = request_.partner_offsets[x]; i < request_.partner_offsets[x + 1]; ++i) {
      sum += batch_[request_.partners[i]] == batch && request_.partners[i] != leaving;
    }
    return sum;
  }

  // Calls body(neighbor) for each neighbor of x but itself.
  template <class Body>
  void for_neighbors(int32_t x, const Body& body) const {
    const int32_t* row = request_.neighbors + x * request_.num_neighbors;
    for (int64_t i = 0; i < request_.num_neighbors && row[i] >= 0; ++i) {
      if (row[i] != x) body(row[i]);
    }
  }

  int64_t num_edges(int32_t x, int32_t batch, int32_t leaving) const {
    int64_t sum = 0;
    for_neighbors(x, [&](int32_t n) { sum += (batch_[n] == batch) & (n != leaving); });
    return sum;
  }

  void count_codes(int32_t x, int32_t amount) {
    for (int64_t c = 0; c < request_.num_columns; ++c) {
      if (codes(x)[c] >= 0) count_.add(cell(batch_[x], codes(x)[c]), amount);
    }
  }

  void place(int32_t x, int64_t position) {
    members_[position] = x;
    position_[x] = static_cast<int32_t>(position);
    batch_[x] = batch_at_[position];
    count_codes(x, 1);
  }

  // Moves the member at each position of a path to the next one, and the last to the first.
  void move(const std::vector<int64_t>& path) {
    std::vector<int32_t> moved;
    for (const int64_t position : path) {
      moved.push_back(members_[position]);
      count_codes(moved.back(), -1);
    }
    for (size_t i = 0; i < path.size(); ++i) place(moved[i], path[(i + 1) % path.size()]);
  }

  void check_interrupt() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_poll_ < std::chrono::milliseconds(50)) return;
    last_poll_ = now;
    if (!monitor_.poll(0)) throw Interrupted();
  }

  // The same in a loop over members, at some of them.
  void check_interrupt(int64_t i) {
    if (i % 4096 == 0) check_interrupt();
  }

  // Number of edges inside batches.
  int64_t num_inside() {
    int64_t sum = 0;
    for (int64_t i = 0; i < request_.num_members; ++i) {
      check_interrupt(i);
      sum += num_edges(members_[i], batch_at_[i], kNone);
    }
    return sum;
  }

  // Prefetches what consider() reads of an instance.
  void prefetch(int32_t x) const {
    const int32_t* row = request_.neighbors + x * request_.num_neighbors;
    for (int64_t i = 0; i < request_.num_neighbors; i += 16) __builtin_prefetch(row + i);
    __builtin_prefetch(&row_[x]);
    __builtin_prefetch(&position_[x]);
  }

  // --- swaps -------------------------------------------------------------------------------------------------------
  void clear_all() {
    for (int64_t batch = 0; batch < request_.num_batches; ++batch) {
      check_interrupt();
      clear(batch);
    }
  }

  void clear(int64_t batch) {
    std::vector<std::pair<int64_t, int64_t>> too_many;  // (edges inside, position)
    for (int64_t position = start(batch); position < start(batch + 1); ++position) {
      const int32_t x = members_[position];
      if (released(x) > 0) too_many.emplace_back(num_edges(x, static_cast<int32_t>(batch), kNone), position);
    }
    std::sort(too_many.begin(), too_many.end());
    for (const auto& [num_inside, position] : too_many) {
      if (released(members_[position]) > 0) swap_best(position, Aim::kExcess);
    }
  }

  // Swaps members that have been moved, where that gains edges inside batches.
  void refine() {
    for (int64_t position = 0; position < request_.num_members; ++position) {
      check_interrupt(position);
      const bool is_moved = batch_at_[row_[members_[position]]] != batch_at_[position];
      if (is_moved) swap_best(position, Aim::kEdges);
    }
  }

  struct Near {
    int32_t instance, batch;
  };

  // What a swap must achieve: less excess (any valid swap of a member that is too many), more edges inside batches, or
  // fewer partners that meet.
  enum class Aim { kExcess, kEdges, kPartners };

  // The best swap found so far for the member x at a position.
  struct Search {
    int32_t x, batch;
    Aim aim;
    int64_t num_edges_now;  // of x
    int64_t num_found = 0, least_loss = 0, best = 0;
  };

  // Returns whether the swap with the member at a position adds no excess and achieves the aim. is_neighbor: whether
  // that member was listed as a neighbor of x
  bool consider(Search& search, int64_t other, bool is_neighbor) const {
    const int32_t x = search.x, batch = search.batch, y = members_[other], target = batch_at_[other];
    if (target == batch || added(x, target, y) > 0 || added(y, batch, x) > 0) return false;
    const int64_t joined =
        num_partners(x, target, y) + num_partners(y, batch, x) - num_partners(x, batch, y) - num_partners(y, target, x);
    if (search.aim == Aim::kPartners && joined >= 0) return false;
    int64_t num_home = 0, num_kept = 0;  // edges of y to the batch of x, and to its own
    for_neighbors(y, [&](int32_t n) {
      num_home += (batch_[n] == batch) & (n != x);
      num_kept += batch_[n] == target;
    });
    const int64_t lost = released(y) > 0 ? 0 : num_kept;
    const int64_t loss = lost - num_home - (votes_[target] - is_neighbor) + kPartnerLoss * joined;
    if (search.aim == Aim::kEdges && loss + search.num_edges_now >= 0) return false;
    if (search.num_found++ == 0 || loss < search.least_loss) {
      search.least_loss = loss;
      search.best = other;
    }
    return true;
  }

  // Considers swaps with a few members of a batch.
  void consider_random_members(Search& search, int32_t batch) {
    std::array<int64_t, kNumProbes> positions;
    for (int64_t& position : positions) {
      position = start(batch) + below(size_of(batch));
      prefetch(members_[position]);
    }
    for (const int64_t position : positions) consider(search, position, false);
  }

  void swap_best(int64_t position, Aim aim) {
    check_interrupt();
    const int32_t x = members_[position];
    Search search{x, batch_at_[position], aim, num_edges(x, batch_at_[position], kNone)};
    list_near(x, search.batch);
    int64_t num_near = 0, num_batches = 0;
    int32_t last = kNone;
    for (size_t i = 0; i < std::min<size_t>(near_.size(), kMaxNear); ++i) prefetch(near_[i].instance);
    for (const Near& near : near_) {
      if (num_near < kMaxNear) num_near += consider(search, position_[near.instance], true);
      if (near.batch != last && num_batches < kNumNearBatches && added(x, near.batch, kNone) == 0) {
        ++num_batches;
        consider_random_members(search, near.batch);
      }
      last = near.batch;
    }
    if (search.num_found == 0 && aim != Aim::kEdges) {
      for (int64_t i = 0; i < kNumRandomProbes && search.num_found < kMaxRandom; ++i) {
        consider(search, below(request_.num_members), false);
      }
    }
    for (const Near& near : near_) votes_[near.batch] = 0;
    if (search.num_found > 0) move({position, search.best});
  }

  // Lists the neighbors of x in other batches, those of the batch with most of them first, and counts them in votes_.
  void list_near(int32_t x, int32_t batch) {
    near_.clear();
    for_neighbors(x, [&](int32_t n) {
      if (batch_[n] == kNone || batch_[n] == batch) return;
      near_.push_back({n, batch_[n]});
      ++votes_[batch_[n]];
    });
    std::stable_sort(near_.begin(), near_.end(), [this](const Near& a, const Near& b) {
      return std::make_tuple(-votes_[a.batch], a.batch) < std::make_tuple(-votes_[b.batch], b.batch);
    });
  }

  // Swaps a member with that of a few random ones that adds the least excess.
  void shake(int64_t position) {
    const int32_t x = members_[position], batch = batch_at_[position];
    int64_t least = 0, best = kNone;
    for (int64_t i = 0; i < kNumShakeProbes; ++i) {
      const int64_t other = below(request_.num_members);
      const int32_t y = members_[other], target = batch_at_[other];
      if (target == batch) continue;
      const int64_t change = added(x, target, y) + added(y, batch, x) - released(y);
      if (best == kNone || change < least) {
        least = change;
        best = other;
      }
    }
    if (best != kNone) move({position, best});
  }

  // --- chains ------------------------------------------------------------------------------------------------------
  // Moves instances along chains while that lowers the excess. Returns positions of members that are too many.
  std::vector<int64_t> move_along_chains() {
    std::vector<int64_t> left;
    for (int64_t position = 0; position < request_.num_members; ++position) {
      while (released(members_[position]) > 0) {
        const std::vector<int64_t> path = find_chain(position);
        if (path.empty()) {
          left.push_back(position);
          break;
        }
        move(path);
      }
      if (!left.empty() && num_visits_ > kMaxVisits) break;
    }
    left.erase(std::remove_if(left.begin(), left.end(), [this](int64_t p) { return released(members_[p]) == 0; }),
               left.end());
    return left;
  }

  // Returns the positions of the shortest chain that lowers the excess, or none.
  std::vector<int64_t> find_chain(int64_t first) {
    const int32_t x = members_[first];
    const int64_t home = batch_at_[first], num_released = released(x);
    struct Step {
      int64_t position, parent;  // parent: index of a step
    };
    std::vector<Step> steps{{first, kNone}};
    std::vector<int64_t> unvisited(static_cast<size_t>(request_.num_batches - 1)), targets;
    for (size_t b = 0; b < unvisited.size(); ++b) {
      unvisited[b] = (home + 1 + static_cast<int64_t>(b)) % request_.num_batches;
    }
    for (size_t i = 0; i < steps.size() && !unvisited.empty(); ++i) {
      check_interrupt();
      const int32_t y = members_[steps[i].position];
      num_visits_ += static_cast<int64_t>(unvisited.size());
      const auto middle = std::stable_partition(unvisited.begin(), unvisited.end(),
                                                [&](int64_t batch) { return added(y, batch, kNone) > 0; });
      targets.assign(middle, unvisited.end());
      unvisited.erase(middle, unvisited.end());
      for (const int64_t target : targets) {
        num_visits_ += size_of(target);
        for (int64_t position = start(target); position < start(target + 1); ++position) {
          steps.push_back({position, static_cast<int64_t>(i)});
          const int32_t z = members_[position];
          if (added(z, home, x) >= num_released + released(z)) continue;
          std::vector<int64_t> path;
          for (int64_t at = static_cast<int64_t>(steps.size()) - 1; at != kNone; at = steps[at].parent) {
            path.push_back(steps[at].position);
          }
          std::reverse(path.begin(), path.end());
          return path;
        }
      }
    }
    return {};
  }

  const KeepApartRequest& request_;
  Monitor& monitor_;
  int32_t* members_;
  CountTable count_;                             // of (batch, code)
  std::vector<int32_t> position_, batch_, row_;  // of an instance; row_: its row of codes
  std::vector<int32_t> batch_at_;                // of a position
  std::vector<int32_t> votes_;                   // of a batch: neighbors of the member to be swapped; 0 between swaps
  std::vector<Near> near_;
  uint64_t num_drawn_ = 0;
  int64_t num_visits_ = 0;
  std::chrono::steady_clock::time_point last_poll_ = std::chrono::steady_clock::now();
};

}  // namespace

KeepApartResult keep_apart(const KeepApartRequest& request, Monitor& monitor) { return Repair(request, monitor).run(); }

}  // namespace bse
