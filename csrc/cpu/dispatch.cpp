#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace zigzag {
namespace {

Isa best_isa() {
#if defined(__x86_64__)
  const bool half = __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (half && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (half && __builtin_cpu_supports("avx2")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa choose_isa() {
  const char* name = std::getenv("ZIGZAG_CPU_ISA");
  if (name == nullptr || *name == '\0') return best_isa();
  const std::string names[] = {"baseline", "avx2", "avx512"};
  for (int i = 0; i < 3; ++i) {
    if (names[i] != name) continue;
    if (i > static_cast<int>(best_isa())) {
      throw std::runtime_error(std::string("ZIGZAG_CPU_ISA=") + name + " cannot run on this machine");
    }
    return static_cast<Isa>(i);
  }
  throw std::runtime_error(std::string("ZIGZAG_CPU_ISA=") + name + ": expected baseline, avx2 or avx512");
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

}  // namespace zigzag
