// Reads the Config from environment variables.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "emulator/runtime.h"

namespace bse::emulator {
namespace {

inline void read_variable(const char* name, uint64_t& value) {
  const char* const text = std::getenv(name);
  if (text == nullptr) return;
  char* end = nullptr;
  errno = 0;
  const uint64_t parsed = std::strtoull(text, &end, 10);
  if (end == text || *end != '\0' || *text == '-' || errno != 0) {
    throw std::runtime_error(std::string(name) + ": expected a whole number, got '" + text + "'");
  }
  value = parsed;
}

inline Config configuration_from_environment() {
  Config config;
  read_variable("BSE_EMULATOR_SEED", config.seed);
  read_variable("BSE_EMULATOR_PREEMPTION", config.preemption);
  read_variable("BSE_EMULATOR_RESIDENT_BLOCKS", config.resident_blocks);
  read_variable("BSE_EMULATOR_NUM_MULTIPROCESSORS", config.num_multiprocessors);
  read_variable("BSE_EMULATOR_MAX_SHARED_BYTES", config.max_shared_bytes);
  read_variable("BSE_EMULATOR_STACK_BYTES", config.stack_bytes);
  read_variable("BSE_EMULATOR_MAX_IDLE_STEPS", config.max_idle_steps);
  read_variable("BSE_EMULATOR_MAX_STEPS", config.max_steps);
  return config;
}

}  // namespace
}  // namespace bse::emulator
