// A team of threads that lives as long as one call.
//
// No thread outlives the call, so forked processes (DataLoader workers) inherit no dead threads. No second OpenMP
// runtime is loaded beside torch's. The calling thread works too and asks the Monitor every 50 ms whether to continue
// (Ctrl-C, progress). Chunks are handed out dynamically, so results must not depend on which thread runs a chunk.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bse {

// Thrown by a call that its Monitor has stopped.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

class Monitor {
 public:
  virtual ~Monitor() = default;
  // Called on the calling thread only. `done` is the sum of what workers have reported. Returning false stops the call.
  virtual bool poll(int64_t done) = 0;
};

class ThreadTeam;

// Handle of the running thread, passed to the body of a parallel loop.
class Worker {
 public:
  int index() const { return index_; }
  // Cheap; the body should call it at least every 50 ms of work. Once it is true, the body should return: its results
  // are discarded.
  bool should_stop();
  void add_done(int64_t amount);

 private:
  friend class ThreadTeam;
  Worker(ThreadTeam& team, int index) : team_(team), index_(index) {}
  ThreadTeam& team_;
  int index_;
};

class ThreadTeam {
 public:
  using Body = std::function<void(int64_t chunk, Worker& worker)>;

  ThreadTeam(int num_threads, Monitor& monitor);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs body(chunk, worker) once for every chunk in [0, num_chunks). Rethrows the first exception of a body. Throws
  // Interrupted if the Monitor stops the call.
  void for_each(int64_t num_chunks, const Body& body);

  // Runs body(begin, end, worker) over [0, size) in ranges of `grain`.
  template <class RangeBody>
  void for_ranges(int64_t size, int64_t grain, const RangeBody& body) {
    for_each((size + grain - 1) / grain, [&](int64_t chunk, Worker& worker) {
      const int64_t begin = chunk * grain, end = begin + grain < size ? begin + grain : size;
      body(begin, end, worker);
    });
  }

 private:
  friend class Worker;
  void run_chunks(int index);
  void worker_loop(int index);
  bool poll_monitor();

  const int num_threads_;
  Monitor& monitor_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable work_ready_, work_done_;
  uint64_t phase_ = 0;
  int num_busy_ = 0;
  bool shutting_down_ = false;
  std::exception_ptr error_;

  const Body* body_ = nullptr;
  int64_t num_chunks_ = 0;
  std::atomic<int64_t> next_chunk_{0};
  std::atomic<int64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::chrono::steady_clock::time_point last_poll_;
};

}  // namespace bse
