#include "tensors.h"

#include <algorithm>

#include "dispatch.h"

namespace zigzag {

std::vector<Block> channel_blocks(int64_t channels, bool f64, int widest, int64_t wanted) {
  const int64_t bytes = active_isa() == Isa::avx512 ? 64 : active_isa() == Isa::avx2 ? 32 : 16;
  const int64_t lanes = bytes / (f64 ? 8 : 4);
  std::vector<Block> blocks;
  for (int64_t first = 0; first < channels;) {
    int vectors = widest;
    while (vectors > 1 && (vectors * lanes > channels - first || channels / (vectors * lanes) < wanted)) vectors /= 4;
    const int64_t count = std::min(vectors * lanes, channels - first);
    blocks.push_back({first, count, vectors});
    first += count;
  }
  return blocks;
}

}  // namespace zigzag
