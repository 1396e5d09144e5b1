// What tests ask the emulation itself.
#include "emulation.h"

// Bulk copies since the process began.
extern "C" __attribute__((visibility("default"))) int64_t zigzag_emulated_copies() { return emulation::machine.copied; }

// Kernels launched since the process began.
extern "C" __attribute__((visibility("default"))) int64_t zigzag_emulated_launches() {
  return emulation::machine.launched;
}
