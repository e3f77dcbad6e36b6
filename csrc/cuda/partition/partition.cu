// Partition epochs on the GPU: the engine of csrc/common/partition_schedule.h.
//
// A vote round has six launches: begin, proposals, grouping by batch (two, or three if there are many batches),
// acceptance, list of unassigned rows. Launches dominate the cost of small rounds. Random reads of neighbors' owners
// from the L2 cache dominate that of large rounds. The host waits once every kRoundsPerRead rounds, and whenever the
// schedule needs an edge share or the exact number of unassigned rows. All else is decided on the device. Atomics
// determine places in lists and groups only, and no result depends on these.
#include <algorithm>

#include "common/partition_schedule.h"
#include "cuda/partition/edge_share_kernels.cuh"
#include "cuda/partition/memory.h"
#include "cuda/partition/order_kernels.cuh"
#include "cuda/partition/partition.h"
#include "cuda/partition/rows_kernels.cuh"
#include "cuda/partition/seed_kernels.cuh"
#include "cuda/partition/state.cuh"
#include "cuda/partition/vote_kernels.cuh"
#include "cuda/primitives/grouping_kernels.cuh"
#include "cuda/runtime/grid_size.h"

namespace bse::cuda {

namespace {

using namespace partition_rules;

constexpr int64_t kSmallBlocks = 16;   // blocks per multiprocessor, for blocks of about kListThreads threads
constexpr unsigned kSeedThreads = 64;  // small, so that walks spread over all multiprocessors

constexpr uint32_t kRoundsPerRead = 4;  // most series of rounds end after 4, 6 or 12

constexpr uint32_t kAllRoom = kNumGrowthRounds - 1;  // index of a round in which batches give away all places

// The engine of the schedule. It knows of the data only the counters that it read last.
class Partition {
 public:
  Partition(const PartitionRequest& request, void* scratch, uint64_t* status, void* stream, CounterReader& reader)
      : request_(request),
        stream_(static_cast<device::Stream>(stream)),
        reader_(reader),
        memory_(request, scratch, status),
        state_(memory_.state),
        sizes_(state_.sizes) {
    device::fill_async(state_.counters, 0, kNumCounters * sizeof(uint64_t), stream_);
    device::fill_async(state_.groups.sizes, 0, static_cast<size_t>(max_partition_groups(sizes_)) * sizeof(uint32_t),
                       stream_);
    const KeyedPermutation permutation(static_cast<uint32_t>(sizes_.num_rows), request.seed, Purpose::kRootOrder,
                                       request.epoch, 0);
    launch_over(begin_kernel, sizes_.num_rows, state_, permutation);
    list_unassigned({nullptr, counter(kNumRows)}, sizes_.num_rows);
    num_expected_ = sizes_.num_assigned;
  }

  int64_t run(int32_t* nodes) {
    PartitionSchedule<Partition>(*this, sizes_, request_.hardness).run();
    write(nodes);
    read();
    return counts_[kNumFilled];
  }

 private:
  friend class PartitionSchedule<Partition>;

  uint64_t key(uint32_t stage, uint32_t index) const {
    return hash_key(request_.seed, Purpose::kPartitionHash, request_.epoch, stage, index);
  }

  uint64_t* counter(Counter which) const { return state_.counters + which; }

  void clear(uint64_t* counter) { device::fill_async(counter, 0, sizeof *counter, stream_); }

  void read() {
    reader_.read(counts_, reinterpret_cast<const int64_t*>(state_.counters), kNumCounters);
    num_expected_ = counts_[kNumListed0 + current_];
    is_exact_ = true;
  }

  // --- launches ----------------------------------------------------------------------------------------------------

  // One thread per item. Kernels have grid-stride loops, so num_items may be approximate.
  template <class... Parameters, class... Arguments>
  void launch_over(void (*kernel)(Parameters...), int64_t num_items, const Arguments&... arguments) {
    device::launch(kernel, grid_size(num_items, kListThreads, kSmallBlocks), kListThreads, 0, stream_, arguments...);
  }

  // One warp per item.
  template <class... Parameters, class... Arguments>
  void launch_warps(void (*kernel)(Parameters...), int64_t num_items, const Arguments&... arguments) {
    device::launch(kernel, grid_size(num_items, kTallyWarps, kTallyBlocks), kTallyThreads, 0, stream_, arguments...);
  }

  // Computes exclusive sums of the values and resets the values to 0. begins: [num_values + 1]
  void scan(uint32_t* values, int64_t num_values, uint32_t* begins, uint64_t* total) {
    constexpr int64_t kTile = int64_t{kMaxScanThreads} * kScannedPerThread;
    const int64_t chunk_size = std::max(kTile, (num_values + kMaxChunks - 1) / kMaxChunks);
    const auto num_chunks = static_cast<unsigned>((num_values + chunk_size - 1) / chunk_size);
    const int64_t num_tile_values = std::min(num_values, kTile);
    const auto num_threads =
        static_cast<unsigned>((num_tile_values + 32 * kScannedPerThread - 1) / (32 * kScannedPerThread) * 32);
    if (num_chunks > 1) {
      device::launch(chunk_sums_kernel, num_chunks, num_threads, 0, stream_, values, num_values, chunk_size,
                     state_.groups.chunk_sums);
    }
    device::launch(scan_kernel, num_chunks, num_threads, 0, stream_, values, num_values, chunk_size,
                   state_.groups.chunk_sums, begins, total);
  }

  // Groups the items that were put. *num_members becomes their number, without put_nothing().
  void group(int64_t num_groups, const uint64_t* num_items, int64_t num_expected, uint64_t* num_members) {
    scan(state_.groups.sizes, num_groups, state_.groups.begins, num_members);
    launch_over(gather_groups_kernel, num_expected, state_.groups, num_items);
  }

  // --- lists -------------------------------------------------------------------------------------------------------

  const RowList& unassigned() const { return memory_.lists[current_]; }
  const RowList& spare() const { return memory_.lists[1 - current_]; }

  int64_t num_unassigned() {
    if (!is_exact_) read();
    return num_expected_;
  }

  void list_unassigned(const RowList& from, int64_t num_rows) {
    clear(spare().num_rows);
    launch_over(list_unassigned_kernel, num_rows, state_, from, spare());
    swap_lists();
  }

  void swap_lists() {
    current_ = 1 - current_;
    is_exact_ = false;
  }

  void sort_unassigned(uint64_t key) {
    const int log_groups = hash_log_groups(num_expected_);
    launch_over(put_row_hashes_kernel, num_expected_, state_, unassigned(), key, log_groups);
    group(int64_t{1} << log_groups, unassigned().num_rows, num_expected_, counter(kNumGrouped));
  }

  // --- seeds -------------------------------------------------------------------------------------------------------

  void seed_all() {
    device::copy_async(counter(kNumCandidates), counter(kNumBatches), sizeof(uint64_t), stream_);
    seed_batches(nullptr, state_.order, sizes_.num_batches, 0);
  }

  void seed_dissolved(int64_t num_batches, uint32_t stage) {
    select_emptiest(num_batches, false);
    launch_over(empty_batches_kernel, num_batches, state_, memory_.selected_batches, num_batches);
    clear(spare().num_rows);
    launch_over(dissolve_kernel, sizes_.num_rows, state_, spare());
    swap_lists();
    num_expected_ = std::min(sizes_.num_assigned, num_expected_ + num_batches * sizes_.batch_size);
    seed_selected(num_batches, stage);
  }

  void seed_emptiest(int64_t num_batches, uint32_t stage) {
    select_emptiest(num_batches, true);
    seed_selected(num_batches, stage);
  }

  void select_emptiest(int64_t num_batches, bool only_open) {
    const EmptinessGroups emptiness(sizes_);
    launch_over(put_emptiness_kernel, sizes_.num_batches, state_, emptiness, only_open);
    group(emptiness.num_groups(), counter(kNumBatches), sizes_.num_batches, counter(kNumCandidates));
    launch_over(take_first_kernel, sizes_.num_batches, state_, counter(kNumCandidates), num_batches,
                memory_.selected_batches);
  }

  // Seeds the selected batches, with random unassigned rows as roots.
  void seed_selected(int64_t num_batches, uint32_t stage) {
    num_batches = std::min(num_batches, sizes_.num_batches);
    sort_unassigned(key(stage, kPickRows));
    launch_over(take_first_kernel, num_expected_, state_, counter(kNumGrouped), num_batches, memory_.selected_roots);
    seed_batches(memory_.selected_batches, memory_.selected_roots, num_batches, stage);
  }

  void seed_batches(const uint32_t* batches, const uint32_t* roots, int64_t max_seeds, uint32_t stage) {
    const Seeds seeds{batches, roots, max_seeds, stage, key(stage, kClaim), memory_.found};
    const unsigned grid = grid_size(max_seeds, kSeedThreads, kSmallBlocks);
    device::launch(seed_walk_kernel, grid, kSeedThreads, 0, stream_, state_, seeds);
    device::launch(resolve_claims_kernel, grid, kSeedThreads, 0, stream_, state_, seeds);
    list_unassigned(unassigned(), num_expected_);
  }

  // --- votes -------------------------------------------------------------------------------------------------------

  void vote(const VoteRound& round) {
    if (num_expected_ == 0) return;
    last_round_ = round.index;
    const uint32_t room_round = round.is_growing ? round.index : kAllRoom;
    begin_round(round.is_conditional);
    launch_warps(propose_kernel, num_expected_, state_, unassigned(), key(round.stage, kFirstRound + round.index),
                 room_round, round.max_votes);
    accept(room_round, false);
  }

  // After a round that placed few rows, begin_round_kernel lets later rounds have no voters. Launching such rounds
  // costs about as much as waiting for the counters, so these are read only once every kRoundsPerRead rounds.
  bool should_continue() {
    if (num_expected_ == 0) return false;
    if ((last_round_ + 1) % kRoundsPerRead != 0) return true;
    read();
    return brings_much(counts_[kNumGrouped], counts_[kNumVoters]);
  }

  void begin_round(bool is_conditional) {
    device::launch(begin_round_kernel, 1, 1, 0, stream_, state_, unassigned(), spare(), is_conditional);
  }

  // Batches accept proposals; then lists the rows that are still unassigned.
  void accept(uint32_t round, bool are_returning) {
    group(sizes_.num_batches, counter(kNumVoters), num_expected_, counter(kNumGrouped));
    device::launch(accept_kernel, grid_size(sizes_.num_batches, 1, kSmallBlocks), kMemberThreads, 0, stream_, state_,
                   round, are_returning);
    launch_over(list_unassigned_kernel, num_expected_, state_, unassigned(), spare());
    swap_lists();
  }

  // --- adjusting ---------------------------------------------------------------------------------------------------

  int64_t edge_share() {
    clear_share();
    launch_warps(edge_share_kernel, std::min(sizes_.num_assigned, kNumMeasured), state_);
    return read_share();
  }

  int64_t edge_share_goal() {
    const int64_t num_walks = num_reference_walks(request_);
    const int64_t stride = (sizes_.batch_size + kMaxMeasuredMembers - 1) / kMaxMeasuredMembers;
    const size_t num_mark_bytes = static_cast<size_t>(sizes_.num_rows) * sizeof(uint64_t);
    clear_share();
    device::fill_async(state_.claims, 0, num_mark_bytes, stream_);
    launch_over(mark_walks_kernel, num_walks * sizes_.batch_size, state_, request_.walk_nodes,
                num_walks * sizes_.batch_size);
    launch_warps(walk_edge_share_kernel, num_walks * std::min(sizes_.batch_size, kMaxMeasuredMembers), state_,
                 request_.walk_nodes, num_walks, stride);
    device::fill_async(state_.claims, 0xFF, num_mark_bytes, stream_);  // kNoClaim again
    return partition_rules::edge_share_goal(read_share(), request_.hardness);
  }

  void clear_share() {
    static_assert(kNumAsked == kNumInside + 1, "cleared together");
    device::fill_async(counter(kNumInside), 0, 2 * sizeof(uint64_t), stream_);
  }

  int64_t read_share() {
    read();
    EdgeShare share;
    share.add(static_cast<uint32_t>(counts_[kNumInside]), static_cast<uint32_t>(counts_[kNumAsked]));
    return share.beyond_random(sizes_.batch_size, sizes_.num_rows);
  }

  void eject_misplaced(uint32_t stage) {
    const uint64_t stage_key = key(stage, kPickRows);
    pick(stage_key, kHardenMask);
    launch_warps(prefers_another_kernel, num_expected_, state_, stage_key, spare(), state_.groups.slots);
    leave_picked(state_.groups.slots);
  }

  void leave(uint32_t stage) {
    pick(key(stage, kPickRows), kSoftenMask);
    leave_picked(nullptr);
  }

  void pick(uint64_t key, uint32_t mask) {
    clear(spare().num_rows);
    launch_over(pick_kernel, sizes_.num_rows, state_, key, mask, spare());
    num_expected_ = sizes_.num_assigned / (mask + 1) + 1;
  }

  // is_leaving: [number of picked rows] flags, or null if all leave
  void leave_picked(const uint32_t* is_leaving) {
    launch_over(eject_kernel, num_expected_, state_, spare(), is_leaving, unassigned());
    is_exact_ = false;
  }

  void return_unplaced() {
    if (num_expected_ == 0) return;
    begin_round(false);
    launch_over(propose_former_kernel, num_expected_, state_, unassigned());
    accept(kAllRoom, true);
  }

  // --- end ---------------------------------------------------------------------------------------------------------

  void fill(uint32_t stage) {
    if (num_expected_ == 0) return;
    sort_unassigned(key(stage, kFill));
    scan(state_.num_free, sizes_.num_batches, memory_.batch_values, counter(kNumCandidates));
    launch_over(fill_kernel, num_expected_, state_, memory_.batch_values);
    clear(unassigned().num_rows);
    num_expected_ = 0;
    is_exact_ = true;
  }

  void write(int32_t* nodes) {
    if (sizes_.num_assigned == 0) return;
    if (const int64_t num_full = sizes_.num_full(); num_full > 0) {
      const int log_groups = hash_log_groups(num_full);
      launch_over(put_batch_hashes_kernel, num_full, state_, key(kFillStage, kOrder), log_groups);
      group(int64_t{1} << log_groups, counter(kNumFullBatches), num_full, counter(kNumGrouped));
      launch_over(rank_values_kernel, num_full, state_, memory_.batch_values);
    }
    const BatchGroups by_batch(sizes_);
    launch_over(put_owners_kernel, sizes_.num_rows, state_, by_batch);
    group(by_batch.num_groups(), counter(kNumRows), sizes_.num_rows, counter(kNumGrouped));
    launch_over(write_kernel, sizes_.num_assigned, state_, memory_.batch_values, nodes);
  }

  const PartitionRequest& request_;
  const device::Stream stream_;
  CounterReader& reader_;
  const PartitionMemory memory_;
  const PartitionState& state_;
  const PartitionSizes& sizes_;
  int current_ = 0;           // index of the list of unassigned rows
  int64_t num_expected_ = 0;  // approximate number of unassigned rows; 0 only if there are none
  bool is_exact_ = false;     // whether num_expected_ is exact
  uint32_t last_round_ = 0;
  int64_t counts_[kNumCounters] = {};
};

}  // namespace

int64_t num_reference_walks(const PartitionRequest& request) {
  const PartitionSizes sizes = partition_sizes(request);
  return sizes.num_batches < 2 || request.hardness == Hardness::kHard ? 0 : num_measured_walks(sizes);
}

size_t partition_scratch_bytes(const PartitionRequest& request) {
  return PartitionMemory(request, nullptr, nullptr).num_bytes;
}

int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, void* scratch, uint64_t* status, void* stream,
                        CounterReader& reader) {
  if (partition_sizes(request).num_assigned == 0) return 0;
  return Partition(request, scratch, status, stream, reader).run(nodes);
}

}  // namespace bse::cuda
