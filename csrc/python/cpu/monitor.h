// Lets a running kernel answer Ctrl-C and report progress: the Monitor that asks Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "cpu/runtime/thread_team.h"

namespace bse {

class PythonMonitor : public Monitor {
 public:
  // progress: None, or called as progress(done, total) at most twenty times a second and once at the end.
  PythonMonitor(pybind11::object progress, int64_t total) : progress_(std::move(progress)), total_(total) {}

  bool poll(int64_t done) override {
    const pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) return false;  // the error stays set until run() throws it
    return report(done);
  }

  // Runs `work` without the GIL; turns an interruption into the Python exception that caused it.
  template <class Work>
  void run(const Work& work) {
    bool interrupted = false;
    {
      const pybind11::gil_scoped_release release;
      try {
        work();
      } catch (const Interrupted&) {
        interrupted = true;
      }
    }
    if (interrupted || !report(total_)) throw pybind11::error_already_set();
  }

 private:
  bool report(int64_t done) {
    if (progress_.is_none()) return true;
    PyObject* result =
        PyObject_CallFunction(progress_.ptr(), "LL", static_cast<long long>(done), static_cast<long long>(total_));
    Py_XDECREF(result);
    return result != nullptr;
  }

  pybind11::object progress_;
  int64_t total_;
};

}  // namespace bse
