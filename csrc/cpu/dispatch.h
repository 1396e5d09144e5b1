// Which instruction set's kernels run, chosen once per process.
#pragma once

namespace zigzag {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The best set this machine has, or the one that the environment variable ZIGZAG_CPU_ISA names (for tests).
// Throws std::runtime_error where the variable names a set that is unknown or that cannot run here.
Isa active_isa();

#if defined(__x86_64__)
#define ZIGZAG_DECLARE_KERNELS(Kernels, name) \
  namespace baseline {                        \
  extern const Kernels name;                  \
  }                                           \
  namespace avx2 {                            \
  extern const Kernels name;                  \
  }                                           \
  namespace avx512 {                          \
  extern const Kernels name;                  \
  }
#define ZIGZAG_KERNELS(name) \
  (active_isa() == Isa::avx512 ? avx512::name : active_isa() == Isa::avx2 ? avx2::name : baseline::name)
#else
#define ZIGZAG_DECLARE_KERNELS(Kernels, name) \
  namespace baseline {                        \
  extern const Kernels name;                  \
  }
#define ZIGZAG_KERNELS(name) (baseline::name)
#endif

}  // namespace zigzag
