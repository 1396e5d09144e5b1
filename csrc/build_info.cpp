// How this library was built, one "name=value" per line, read by zigzag._library through ctypes.
#include "zigzag_build_info.h"

extern "C" __attribute__((visibility("default"))) const char* zigzag_build_info() {
  return "version=" ZIGZAG_BUILD_VERSION "\ncommit=" ZIGZAG_BUILD_COMMIT "\ncompiler=" ZIGZAG_BUILD_COMPILER
         "\nflags=" ZIGZAG_BUILD_FLAGS "\nisas=" ZIGZAG_BUILD_ISAS "\ngpus=" ZIGZAG_BUILD_GPUS
         "\nsanitize=" ZIGZAG_BUILD_SANITIZE;
}
