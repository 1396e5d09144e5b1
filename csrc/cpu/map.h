// The plain views of the CPU's kernels.
#pragma once

#include "../map.h"

namespace zigzag {

// A run of channels that one task works on: so many vectors of them, the last perhaps in part.
struct Block {
  int64_t first;
  int64_t count;
  int vectors;
};

}  // namespace zigzag
