// How this library was built, one "name=value" per line, read by zigzag._library through ctypes.
#include "zigzag_build_info.h"

extern "C" __attribute__((visibility("default"))) const char* zigzag_build_info() {
    return "version=" ZIGZAG_BUILD_VERSION "\n"
           "commit=" ZIGZAG_BUILD_COMMIT "\n"
           "compiler=" ZIGZAG_BUILD_COMPILER "\n"
           "flags=" ZIGZAG_BUILD_FLAGS "\n"
           "isas=" ZIGZAG_BUILD_ISAS "\n"
           "sanitize=" ZIGZAG_BUILD_SANITIZE "\n";
}
