// Decides which thread runs next.
//
// Threads switch directly to each other. The host gets control when a block has ended, when no thread can run, and
// after an error. With seed 0, threads run in order, each until it waits. Otherwise the next thread is drawn at random.
// Every other launch prefers some warps, so that these run far ahead.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "emulator/detail/grid_state.h"

namespace bse::emulator {
namespace {

inline std::string describe(CallSite site) { return std::string(site.file) + ":" + std::to_string(site.line); }

inline std::string describe(const Thread& thread) {
  const auto coordinates = [](const uint3& index) {
    return std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z);
  };
  return "block " + coordinates(thread.block_index) + " thread " + coordinates(thread.thread_index) + " lane " +
         std::to_string(thread.lane);
}

class Scheduler {
 public:
  void begin_launch(const Config& config, uint64_t launch) {
    host_.become_host();
    ready_.clear();
    yielded_.clear();
    error_.clear();
    is_random_ = config.seed != 0;
    has_favorites_ = launch % 2 == 1;
    random_ = Random(config.seed * 0xD1342543DE82EF95ull + launch);
    preemption_ = is_random_ ? config.preemption : 0;
    countdown_ = next_countdown();
    max_idle_steps_ = config.max_idle_steps;
    max_steps_ = config.max_steps;
    num_idle_steps_ = num_steps_ = 0;
  }

  Random& random() { return random_; }
  bool is_random() const { return is_random_; }
  Fiber& host() { return host_; }
  Thread& running() { return *running_; }
  uint64_t num_steps() const { return num_steps_; }

  const std::string& error() const { return error_; }
  void set_error(std::string error) {
    if (error_.empty()) error_ = std::move(error);
  }

  // Reserves memory, so that lists never grow while a kernel's thread runs.
  void reserve(size_t num_threads) {
    ready_.reserve(num_threads);
    yielded_.reserve(num_threads);
  }

  void make_ready(Thread& thread) {
    thread.state = ThreadState::kReady;
    ready_.push_back(&thread);
  }

  // Must be called when something happens that other threads may wait for.
  void note_progress() { num_idle_steps_ = 0; }

  // Called by the host. Runs threads until the host is needed. Returns false if no thread can run.
  bool run_threads() {
    Thread* const next = pick();
    if (next == nullptr) return false;
    enter(*next);
    Fiber::switch_between(host_, *next->fiber);
    eject_kernel();
    return true;
  }

  // Called by a thread that waits for others or has exited. Runs the next thread.
  void switch_away(bool has_exited = false) {
    Thread& from = *running_;
    Thread* const to = pick();
    if (++num_steps_ > max_steps_) fail("livelock: the launch takes too many steps", from.site);
    if (to == &from) return;
    if (to == nullptr) {
      Fiber::switch_between(*from.fiber, host_, has_exited);
    } else {
      enter(*to);
      Fiber::switch_between(*from.fiber, *to->fiber, has_exited);
    }
  }

  // Called by a thread. Returns to the host.
  void switch_to_host(bool has_exited) { Fiber::switch_between(*running_->fiber, host_, has_exited); }

  void preempt(CallSite site) {
    if (--countdown_ > 0) return;
    countdown_ = next_countdown();
    step_aside(is_random_ ? ready_ : yielded_, site);
  }

  void yield(CallSite site) { step_aside(yielded_, site); }

  // Ends the launch. The thread neither continues nor unwinds, so it must own no memory. The message is moved from.
  [[noreturn]] void fail(std::string&& message, CallSite site) {
    {
      UnseenByTsan unseen;
      set_error(std::move(message) + " at " + describe(site) + " (" + describe(*running_) + ")");
    }
    switch_to_host(false);
    std::abort();
  }

 private:
  void enter(Thread& thread) {
    running_ = &thread;
    current_thread = &thread;
  }

  void eject_kernel() {
    running_ = nullptr;
    current_thread = nullptr;
  }

  void step_aside(std::vector<Thread*>& list, CallSite site) {
    running_->site = site;
    if (++num_idle_steps_ > max_idle_steps_) fail("livelock: many turns and no progress", site);
    list.push_back(running_);
    switch_away();
  }

  int64_t next_countdown() {
    if (preemption_ == 0) return 1024;  // for spin loops that do not yield
    return static_cast<int64_t>(1 + random_.below(2 * static_cast<size_t>(preemption_)));
  }

  Thread* pick() {
    if (ready_.empty()) {
      ready_.swap(yielded_);
      if (!is_random_) std::reverse(ready_.begin(), ready_.end());
      if (ready_.empty()) return nullptr;
    }
    if (is_random_) {
      size_t chosen = random_.below(ready_.size());
      if (has_favorites_) {
        const size_t other = random_.below(ready_.size());
        if (ready_[other]->warp->rank < ready_[chosen]->warp->rank) chosen = other;
      }
      std::swap(ready_[chosen], ready_.back());
    }
    Thread* const thread = ready_.back();
    ready_.pop_back();
    return thread;
  }

  Fiber host_;
  Thread* running_ = nullptr;
  std::vector<Thread*> ready_, yielded_;  // the last element of ready_ runs next
  Random random_;
  bool is_random_ = false, has_favorites_ = false;
  uint64_t preemption_ = 0;
  int64_t countdown_ = 0;
  uint64_t num_steps_ = 0, max_steps_ = 0, num_idle_steps_ = 0, max_idle_steps_ = 0;
  std::string error_;
};

}  // namespace
}  // namespace bse::emulator
