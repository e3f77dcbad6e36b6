// The emulator's runtime: grids, blocks, barriers, warp collectives, shared memory, asynchronous copies.
//
// This is the only file that must be compiled without sanitizers: it accesses the memory of threads on their behalf.
// Its types are in anonymous namespaces, so that it shares no template instance with instrumented files.

#include "emulator/runtime.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/runtime/float_environment.h"
#include "emulator/detail/configuration.h"
#include "emulator/detail/fiber.h"
#include "emulator/detail/grid_state.h"
#include "emulator/detail/scheduler.h"
#include "emulator/detail/warp_operations.h"

namespace bse::emulator {

const ThreadIdentity* current_thread = nullptr;

namespace {

constexpr size_t kMaxStaticSharedBytes = 48 << 10;  // the limit of ptxas
constexpr unsigned kMaxThreads = 1024, kMaxGridRows = 65535, kMaxBlockDepth = 64;

struct Launch {
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  KernelThread thread;
  const void* context;
  char begin, end;  // their addresses order what precedes the launch, and what happens in it
};

struct Runtime {
  std::mutex mutex;
  std::atomic<std::thread::id> owner{};  // thread that holds the mutex
  Statistics statistics{};
  Scheduler scheduler;
  FiberPool fibers;
  std::vector<std::unique_ptr<Block>> idle_blocks, blocks;
  Launch* launch = nullptr;
};

Runtime& runtime() {
  static Runtime instance;
  return instance;
}

// Looked up once: the functions below are called at every collective.
Runtime& state = runtime();

std::string describe_wait(const Thread& thread) {
  char mask[32] = "";
  const char* what = "running";
  if (thread.state == ThreadState::kAtBarrier) what = "__syncthreads";
  if (thread.state == ThreadState::kInWarp) {
    what = operation_name(thread.operation);
    std::snprintf(mask, sizeof mask, " mask %08x", thread.mask);
  }
  return std::string(what) + mask + " at " + describe(thread.site);
}

bool same_site(CallSite a, CallSite b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

[[noreturn]] void fail_between(const char* message, const Thread& a, const Thread& b) {
  std::string text;
  {
    UnseenByTsan unseen;
    text = std::string(message) + ": " + describe_wait(a) + " (" + describe(a) + ") and " + describe_wait(b) + " (" +
           describe(b) + "), noticed";
  }
  state.scheduler.fail(std::move(text), a.site);
}

// ---- barriers of the block

void complete_barrier(Block& block) {
  const Thread* first = nullptr;
  for (size_t i = 0; i < block.num_threads; ++i) {
    const Thread& thread = block.threads[i];
    if (thread.state != ThreadState::kAtBarrier) continue;
    if (first == nullptr) first = &thread;
    if (!same_site(first->site, thread.site)) fail_between("divergent barrier", *first, thread);
  }
  block.barrier_result = block.predicate_count;
  block.num_at_barrier = 0;
  block.predicate_count = 0;
  block.barrier_turn ^= 1;
  ++state.statistics.num_barriers;
  state.scheduler.note_progress();
  for (size_t i = block.num_threads; i-- > 0;) {
    Thread& thread = block.threads[i];
    if (thread.state != ThreadState::kAtBarrier) continue;
    thread.value = static_cast<uint64_t>(block.barrier_result);
    state.scheduler.make_ready(thread);
  }
}

// ---- collectives of a warp

// Completes the collective of the lanes in `mask` if all that have not exited have arrived with this mask. A later
// arrival may release lanes that wait with another mask. Without one, they are in a deadlock.
void complete_collective(Warp& warp, unsigned mask) {
  const unsigned members = mask & ~warp.exited;
  if (members == 0 || (members & ~warp.waiting) != 0) return;
  const Thread& first = *warp.lanes[__builtin_ctz(members)];
  bool agree = true;
  for_each_lane(warp, members, [&](const Thread& thread) { agree &= thread.mask == mask; });
  if (!agree) return;
  for_each_lane(warp, members, [&](const Thread& thread) {
    const bool may_differ = first.operation == WarpOperation::kSync;
    if (thread.operation != first.operation || (!may_differ && !same_site(thread.site, first.site))) {
      fail_between("lanes of a warp meet in different collectives", first, thread);
    }
  });
  const char* error = nullptr;
  if (const Thread* wrong = combine(warp, members, &error)) {
    std::string text;
    {
      UnseenByTsan unseen;
      text =
          std::string(error) + ": lane " + std::to_string(wrong->lane) + " in " + describe_wait(*wrong) + ", noticed";
    }
    state.scheduler.fail(std::move(text), wrong->site);
  }
  warp.waiting &= ~members;
  ++state.statistics.num_warp_collectives;
  state.scheduler.note_progress();
  for (int lane = kNumLanes; lane-- > 0;) {
    if (members >> lane & 1) state.scheduler.make_ready(*warp.lanes[lane]);
  }
}

// Returns the address of the barrier at which lanes wait with this mask, or of a new barrier.
char* barrier_address(Warp& warp, unsigned mask) {
  char* address = nullptr;
  for_each_lane(warp, mask & warp.waiting, [&](const Thread& thread) {
    if (thread.operation == WarpOperation::kSync && thread.mask == mask) address = thread.barrier_address;
  });
  return address != nullptr ? address : &warp.barrier_addresses[warp.num_barriers++ % sizeof warp.barrier_addresses];
}

// ---- threads

void land(AsyncCopy& copy) {
  if (copy.has_landed) return;
  note_read(copy.source, static_cast<size_t>(copy.num_source_bytes));
  note_write(copy.destination, 16);
  unsigned char bytes[16] = {};
  for (int i = 0; i < copy.num_source_bytes; ++i) bytes[i] = static_cast<const unsigned char*>(copy.source)[i];
  __builtin_memcpy(copy.destination, bytes, sizeof bytes);
  copy.has_landed = true;
}

// Ends the thread. Barriers and collectives no longer wait for it.
void exit_thread(Thread& thread) {
  if (!thread.async_copies.empty()) fail("a thread exits with cp.async under way", thread.async_copies[0].site);
  thread.state = ThreadState::kExited;
  Warp& warp = *thread.warp;
  warp.exited |= 1u << thread.lane;
  Block& block = *thread.block;
  state.scheduler.note_progress();
  if (--block.num_running == 0) return;
  if (block.num_at_barrier == block.num_running) complete_barrier(block);
  for (int lane = 0; lane < kNumLanes; ++lane) {
    if ((warp.waiting >> lane & 1) == 0) continue;
    const unsigned mask = warp.lanes[lane]->mask;
    if (mask >> thread.lane & 1) complete_collective(warp, mask);
  }
}

void thread_main() {
  Scheduler& scheduler = state.scheduler;
  Fiber::entered(scheduler.host());
  acquire(&state.launch->begin);
  Thread& thread = scheduler.running();
  std::string exception = "something";
  bool has_thrown = false;
  try {
    state.launch->thread(state.launch->context);
  } catch (const std::exception& error) {
    has_thrown = true;
    exception = error.what();
  } catch (...) {
    has_thrown = true;
  }
  if (has_thrown) scheduler.fail("a kernel threw " + std::move(exception) + ", last seen", thread.site);
  exit_thread(thread);
  release(&state.launch->end);
  if (thread.block->num_running == 0) {
    scheduler.switch_to_host(true);
  } else {
    scheduler.switch_away(true);
  }
  std::abort();
}

// ---- blocks

void start_block(uint64_t index) {
  UnseenByTsan unseen;
  const Launch& launch = *state.launch;
  if (state.idle_blocks.empty()) state.idle_blocks.push_back(std::make_unique<Block>());
  state.blocks.push_back(std::move(state.idle_blocks.back()));
  state.idle_blocks.pop_back();
  Block& block = *state.blocks.back();
  const dim3 size = launch.block, grid = launch.grid;
  block.num_threads = size_t{size.x} * size.y * size.z;
  block.num_warps = (block.num_threads + kNumLanes - 1) / kNumLanes;
  if (block.threads.size() < block.num_threads) block.threads.resize(block.num_threads);
  if (block.warps.size() < block.num_warps) block.warps.resize(block.num_warps);
  block.num_running = static_cast<unsigned>(block.num_threads);
  block.num_at_barrier = 0;
  block.predicate_count = block.barrier_result = block.barrier_turn = 0;
  block.static_shared_bytes = 0;
  block.shared.begin_block(config().max_shared_bytes);
  for (size_t i = 0; i < block.num_warps; ++i) {
    block.warps[i] = Warp{};
    block.warps[i].exited = ~0u;
    block.warps[i].rank = static_cast<uint32_t>(state.scheduler.random().next());
  }
  const uint3 block_index{static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                          static_cast<unsigned>(index / grid.x / grid.y)};
  uint3 thread_index{0, 0, 0};
  for (size_t i = 0; i < block.num_threads; ++i) {
    Thread& thread = block.threads[i];
    Warp& warp = block.warps[i / kNumLanes];
    static_cast<ThreadIdentity&>(thread) = {thread_index, block_index, size, grid};
    thread.block = &block;
    thread.warp = &warp;
    thread.fiber = state.fibers.take(config().stack_bytes);
    thread.fiber->prepare(thread_main);
    thread.lane = static_cast<int>(i % kNumLanes);
    thread.site = {"kernel entry", 0};
    thread.num_async_groups = 0;
    thread.async_copies.clear();
    warp.lanes[thread.lane] = &thread;
    warp.exited &= ~(1u << thread.lane);
    if (++thread_index.x == size.x) {
      thread_index.x = 0;
      if (++thread_index.y == size.y) {
        thread_index.y = 0;
        ++thread_index.z;
      }
    }
  }
  for (size_t i = block.num_threads; i-- > 0;) state.scheduler.make_ready(block.threads[i]);
  state.statistics.num_threads += block.num_threads;
}

void end_block(size_t position) {
  UnseenByTsan unseen;
  Block& block = *state.blocks[position];
  for (size_t i = 0; i < block.num_threads; ++i) {
    Thread& thread = block.threads[i];
    if (thread.state != ThreadState::kExited) thread.fiber->abandon(state.scheduler.host(), &state.launch->end);
    state.fibers.put_back(thread.fiber);
  }
  const SharedArena::Damage damage = block.shared.end_block();
  if (damage.piece != nullptr) {
    state.scheduler.set_error("shared memory was overwritten " + std::string(damage.behind ? "behind " : "before ") +
                              damage.piece->name + " (" + std::to_string(damage.piece->num_bytes) + " bytes), " +
                              describe(block.threads[0]));
  }
  // ThreadSanitizer gets a new block each time: barriers at the same addresses would order it after this block.
  if (!has_tsan()) state.idle_blocks.push_back(std::move(state.blocks[position]));
  state.blocks.erase(state.blocks.begin() + static_cast<std::ptrdiff_t>(position));
}

// Describes where all threads wait if none can run.
std::string describe_deadlock() {
  std::map<std::string, int> waits;
  for (const auto& block : state.blocks) {
    for (size_t i = 0; i < block->num_threads; ++i) {
      if (block->threads[i].state != ThreadState::kExited) ++waits[describe_wait(block->threads[i])];
    }
  }
  std::string text = "deadlock:";
  for (const auto& [wait, count] : waits) text += "\n  " + std::to_string(count) + " thread(s) in " + wait;
  return text;
}

void run_grid(const std::vector<uint64_t>& order) {
  Scheduler& scheduler = state.scheduler;
  const dim3 size = state.launch->block;
  const size_t num_resident = std::min(std::max<size_t>(config().resident_blocks, 1), order.size());
  {
    UnseenByTsan unseen;
    scheduler.reserve(num_resident * size.x * size.y * size.z);
  }
  size_t next = 0;
  while (scheduler.error().empty()) {
    while (state.blocks.size() < num_resident && next < order.size()) start_block(order[next++]);
    if (state.blocks.empty()) break;
    if (!scheduler.run_threads()) {
      UnseenByTsan unseen;
      scheduler.set_error(describe_deadlock());
    }
    for (size_t i = state.blocks.size(); i-- > 0;) {
      if (state.blocks[i]->num_running == 0) end_block(i);
    }
  }
  while (!state.blocks.empty()) end_block(state.blocks.size() - 1);
}

void check_launch(dim3 grid, dim3 block, size_t dynamic_shared_bytes) {
  const auto describe_size = [](dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  const bool grid_is_valid =
      grid.x > 0 && grid.x < 1u << 31 && grid.y > 0 && grid.y <= kMaxGridRows && grid.z > 0 && grid.z <= kMaxGridRows;
  const uint64_t num_threads = uint64_t{block.x} * block.y * block.z;
  const bool block_is_valid = num_threads > 0 && num_threads <= kMaxThreads && block.z <= kMaxBlockDepth;
  if (!grid_is_valid || !block_is_valid || dynamic_shared_bytes > config().max_shared_bytes) {
    throw std::runtime_error("launch: invalid configuration: grid " + describe_size(grid) + ", block " +
                             describe_size(block) + ", " + std::to_string(dynamic_shared_bytes) +
                             " bytes of shared memory");
  }
}

}  // namespace

Config& config() {
  static Config instance = configuration_from_environment();
  return instance;
}

const Statistics& statistics() { return state.statistics; }

void run(dim3 grid, dim3 block, size_t dynamic_shared_bytes, KernelThread thread, const void* context) {
  if (state.owner == std::this_thread::get_id()) throw std::runtime_error("launch: called from a kernel");
  const std::lock_guard<std::mutex> lock(state.mutex);
  check_launch(grid, block, dynamic_shared_bytes);
  const DefinedRounding rounding;
  Launch launch{grid, block, dynamic_shared_bytes, thread, context, 0, 0};
  const uint64_t number = state.statistics.num_launches++;
  Scheduler& scheduler = state.scheduler;
  scheduler.begin_launch(config(), number);
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (scheduler.is_random()) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[scheduler.random().below(i)]);
  }
  state.owner = std::this_thread::get_id();
  state.launch = &launch;
  release(&launch.begin);
  try {
    run_grid(order);
  } catch (...) {  // out of memory
    state.owner = std::thread::id();
    throw;
  }
  acquire(&launch.end);
  state.launch = nullptr;
  state.owner = std::thread::id();
  state.statistics.num_switches += scheduler.num_steps();
  if (!scheduler.error().empty()) {
    throw std::runtime_error("kernel: " + scheduler.error() + " [BSE_EMULATOR_SEED=" + std::to_string(config().seed) +
                             ", launch " + std::to_string(number) + "]");
  }
}

void fail(const char* message, CallSite site) { state.scheduler.fail(message, site); }

void preemption_point(CallSite site) { state.scheduler.preempt(site); }

void yield(CallSite site) { state.scheduler.yield(site); }

int block_barrier(bool predicate, CallSite site) {
  Thread& thread = state.scheduler.running();
  Block& block = *thread.block;
  thread.state = ThreadState::kAtBarrier;
  thread.site = site;
  char* const address = &block.barrier_address[block.barrier_turn];
  release(address);
  block.predicate_count += predicate;
  if (++block.num_at_barrier == block.num_running) complete_barrier(block);
  state.scheduler.switch_away();
  acquire(address);
  return static_cast<int>(thread.value);
}

uint64_t warp_collective(WarpOperation operation, unsigned mask, uint64_t value, int argument, CallSite site) {
  Thread& thread = state.scheduler.running();
  Warp& warp = *thread.warp;
  thread.site = site;
  thread.operation = operation;
  thread.mask = mask;
  thread.value = value;
  thread.argument = argument;
  thread.state = ThreadState::kInWarp;
  if ((mask >> thread.lane & 1) == 0) {
    std::string text;
    {
      UnseenByTsan unseen;
      text = "a lane is not in its own mask: " + describe_wait(thread) + ", noticed";
    }
    state.scheduler.fail(std::move(text), site);
  }
  const bool orders_memory = operation == WarpOperation::kSync && has_tsan();
  if (orders_memory) {
    thread.barrier_address = barrier_address(warp, mask);
    release(thread.barrier_address);
  }
  warp.waiting |= 1u << thread.lane;
  complete_collective(warp, mask);
  state.scheduler.switch_away();
  if (orders_memory) acquire(thread.barrier_address);
  return thread.value;
}

void* static_shared(const void* key, size_t num_bytes, const char* name, CallSite site) {
  Block& block = *state.scheduler.running().block;
  if (const SharedPiece* piece = block.shared.find(key)) return piece->begin;
  block.static_shared_bytes += num_bytes;
  if (block.static_shared_bytes > kMaxStaticSharedBytes) fail("more than 48 KiB of static shared memory", site);
  if (block.static_shared_bytes + state.launch->dynamic_shared_bytes > config().max_shared_bytes) {
    fail("static and dynamic shared memory together exceed the limit", site);
  }
  const SharedPiece* const piece = block.shared.add(key, num_bytes, name, state.scheduler.random());
  if (piece == nullptr) fail("too many shared variables", site);
  return piece->begin;
}

void* dynamic_shared(int index, size_t num_bytes, size_t num_bytes_so_far, CallSite site) {
  static const char keys[64] = {};
  if (index >= 64) fail("too many pieces of shared memory", site);
  if (num_bytes_so_far > state.launch->dynamic_shared_bytes) {
    fail("more dynamic shared memory is taken than was asked for at the launch", site);
  }
  Block& block = *state.scheduler.running().block;
  const SharedPiece* piece = block.shared.find(&keys[index]);
  if (piece == nullptr) {
    piece = block.shared.add(&keys[index], num_bytes, "a piece of dynamic shared memory", state.scheduler.random());
  }
  if (piece == nullptr) fail("too many pieces of shared memory", site);
  if (piece->num_bytes != num_bytes) fail("threads take different pieces of shared memory", site);
  return piece->begin;
}

void async_copy(void* shared_destination, const void* source, int num_source_bytes, CallSite site) {
  Thread& thread = state.scheduler.running();
  thread.site = site;
  if (!thread.block->shared.contains(shared_destination, 16)) fail("cp.async: destination is not shared memory", site);
  UnseenByTsan unseen;
  thread.async_copies.push_back({shared_destination, source, num_source_bytes, thread.num_async_groups, false, site});
}

void async_commit() {
  Thread& thread = state.scheduler.running();
  ++thread.num_async_groups;
  if (state.scheduler.is_random() && !thread.async_copies.empty() && state.scheduler.random().below(4) == 0) {
    land(thread.async_copies[state.scheduler.random().below(thread.async_copies.size())]);
  }
}

void async_wait(int num_pending_groups) {
  Thread& thread = state.scheduler.running();
  std::vector<AsyncCopy>& copies = thread.async_copies;
  size_t num_done = 0;
  while (num_done < copies.size() && copies[num_done].group < thread.num_async_groups - num_pending_groups) {
    land(copies[num_done++]);
  }
  UnseenByTsan unseen;
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(num_done));
}

}  // namespace bse::emulator
