#include "cpu/runtime/thread_team.h"

#include <algorithm>

#include "cpu/runtime/float_environment.h"

namespace bse {

namespace {
constexpr auto kPollInterval = std::chrono::milliseconds(50);
}

bool Worker::should_stop() {
  if (index_ == 0) team_.poll_monitor();
  return team_.stop_.load(std::memory_order_relaxed);
}

void Worker::add_done(int64_t amount) { team_.done_.fetch_add(amount, std::memory_order_relaxed); }

ThreadTeam::ThreadTeam(int num_threads, Monitor& monitor)
    : num_threads_(std::max(num_threads, 1)), monitor_(monitor), last_poll_(std::chrono::steady_clock::now()) {}

ThreadTeam::~ThreadTeam() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    shutting_down_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::for_each(int64_t num_chunks, const Body& body) {
  if (num_chunks <= 0) return;
  body_ = &body;
  num_chunks_ = num_chunks;
  next_chunk_.store(0, std::memory_order_relaxed);
  const bool alone = num_threads_ == 1 || num_chunks == 1;
  if (!alone) {
    while (static_cast<int>(threads_.size()) < num_threads_ - 1) {
      const int index = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back([this, index] { worker_loop(index); });
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      num_busy_ = static_cast<int>(threads_.size());
      ++phase_;
    }
    work_ready_.notify_all();
  }
  run_chunks(0);
  if (!alone) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!work_done_.wait_for(lock, kPollInterval, [this] { return num_busy_ == 0; })) {
      lock.unlock();
      poll_monitor();
      lock.lock();
    }
  }
  if (error_) std::rethrow_exception(error_);
  if (stop_.load(std::memory_order_relaxed)) throw Interrupted();
}

void ThreadTeam::run_chunks(int index) {
  const DefinedRounding rounding;
  Worker worker(*this, index);
  try {
    while (!worker.should_stop()) {
      const int64_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= num_chunks_) return;
      (*body_)(chunk, worker);
    }
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
    stop_.store(true, std::memory_order_relaxed);
  }
}

void ThreadTeam::worker_loop(int index) {
  uint64_t seen_phase = 0;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      work_ready_.wait(lock, [&] { return shutting_down_ || phase_ != seen_phase; });
      if (shutting_down_) return;
      seen_phase = phase_;
    }
    run_chunks(index);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (--num_busy_ == 0) work_done_.notify_one();
    }
  }
}

bool ThreadTeam::poll_monitor() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_poll_ >= kPollInterval) {
    if (!monitor_.poll(done_.load(std::memory_order_relaxed))) stop_.store(true, std::memory_order_relaxed);
    last_poll_ = std::chrono::steady_clock::now();
  }
  return stop_.load(std::memory_order_relaxed);
}

}  // namespace bse
