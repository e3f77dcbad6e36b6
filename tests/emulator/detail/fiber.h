// Fibers with stacks of their own. A switch takes 15 instructions on x86-64. Elsewhere it uses ucontext, which is
// several times slower because of its system calls.
//
// Sanitizers are notified of switches, ThreadSanitizer with the flag for "no synchronization". So it sees the fibers as
// concurrent threads, and reports races between them.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "emulator/detail/sanitizers.h"

#if defined(__x86_64__) && !defined(BSE_EMULATOR_UCONTEXT)
#define BSE_EMULATOR_ASSEMBLY 1
// Saves the callee-saved registers on the stack, stores the stack pointer, and continues on the other stack.
extern "C" void bse_emulator_switch(void** saved_stack_pointer, void* stack_pointer);
asm(R"(
.text
.p2align 4
.hidden bse_emulator_switch
.globl bse_emulator_switch
.type bse_emulator_switch, @function
bse_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size bse_emulator_switch, .-bse_emulator_switch
)");
#else
#define BSE_EMULATOR_ASSEMBLY 0
#include <ucontext.h>
#endif

namespace bse::emulator {
namespace {

class Fiber {
 public:
  // A fiber without a stack of its own: the host thread that calls launch().
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // A fiber with a stack of whole pages. The page below it faults.
  explicit Fiber(size_t num_stack_bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    stack_size_ = (num_stack_bytes + page - 1) / page * page;
    void* const mapping = mmap(nullptr, stack_size_ + page, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    mprotect(mapping, page, PROT_NONE);
    stack_ = static_cast<char*>(mapping) + page;
    owns_stack_ = true;
    // Stacks at equal distances would compete for the same cache sets, so each starts at another offset.
    static size_t num_created = 0;
    color_ = num_created++ % 32 * 128;
    create_tsan_fiber();
  }

  ~Fiber() {
    if (!owns_stack_) return;
    if (tsan_ != nullptr) __tsan_destroy_fiber(tsan_);
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    munmap(static_cast<char*>(const_cast<void*>(stack_)) - page, stack_size_ + page);
  }

  // Must be called before the host's first switch of a launch.
  void become_host() {
    stack_ = nullptr;
    stack_size_ = 0;
    if (has_tsan()) tsan_ = __tsan_get_current_fiber();
  }

  // The next switch to this fiber calls `entry`, which must not return.
  void prepare(void (*entry)()) {
    unpoison(stack_, stack_size_);  // a fiber abandoned after an error has left red zones
    fake_stack_ = nullptr;
    char* const bottom = static_cast<char*>(const_cast<void*>(stack_));
#if BSE_EMULATOR_ASSEMBLY
    void** top = reinterpret_cast<void**>(bottom + stack_size_ - color_);
    *--top = nullptr;  // return address of `entry`; also aligns its frame
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom;
    context_.uc_stack.ss_size = stack_size_ - color_;
    makecontext(&context_, entry, 0);
#endif
  }

  // Gives the fiber up after an error. Its work so far happens before all that follows an acquire of `address`.
  void abandon(Fiber& host, void* address) {
    if (tsan_ == nullptr) return;
    __tsan_switch_to_fiber(tsan_, 1);
    release(address);
    __tsan_switch_to_fiber(host.tsan_, 1);
    __tsan_destroy_fiber(tsan_);
    create_tsan_fiber();
  }

  static void switch_between(Fiber& from, Fiber& to, bool from_has_ended = false) {
    if (__sanitizer_start_switch_fiber != nullptr) {
      __sanitizer_start_switch_fiber(from_has_ended ? nullptr : &from.fake_stack_, to.stack_, to.stack_size_);
    }
    if (has_tsan()) __tsan_switch_to_fiber(to.tsan_, 1);
#if BSE_EMULATOR_ASSEMBLY
    bse_emulator_switch(&from.stack_pointer_, to.stack_pointer_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
    if (__sanitizer_finish_switch_fiber != nullptr) {
      __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
    }
  }

  // Must be called first in `entry`. The first fiber of a launch stores the host's stack.
  static void entered(Fiber& host) {
    if (__sanitizer_finish_switch_fiber == nullptr) return;
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (host.stack_ == nullptr) {
      host.stack_ = bottom;
      host.stack_size_ = size;
    }
  }

 private:
  void create_tsan_fiber() { tsan_ = has_tsan() ? __tsan_create_fiber(0) : nullptr; }

  const void* stack_ = nullptr;  // only AddressSanitizer knows the host's stack
  bool owns_stack_ = false;
  size_t stack_size_ = 0, color_ = 0;
  void *fake_stack_ = nullptr, *tsan_ = nullptr;
#if BSE_EMULATOR_ASSEMBLY
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

// Fibers for the threads of blocks, kept between blocks and launches, last in, first out. So equal threads of
// consecutive blocks rarely get the same fiber. One fiber would order them for ThreadSanitizer and hide their races.
class FiberPool {
 public:
  ~FiberPool() {
    for (Fiber* fiber : fibers_) delete fiber;
  }

  Fiber* take(size_t num_stack_bytes) {
    if (fibers_.empty()) return new Fiber(num_stack_bytes);
    Fiber* const fiber = fibers_.back();
    fibers_.pop_back();
    return fiber;
  }

  void put_back(Fiber* fiber) { fibers_.push_back(fiber); }

 private:
  std::vector<Fiber*> fibers_;
};

}  // namespace
}  // namespace bse::emulator
