#include "tensors.h"

#include "dispatch.h"

namespace zigzag {

std::vector<Block> channel_blocks(int64_t channels, int64_t images, bool f64) {
  const int64_t bytes = active_isa() == Isa::avx512 ? 64 : active_isa() == Isa::avx2 ? 32 : 16;
  const int64_t lanes = bytes / (f64 ? 8 : 4), wide = 4 * lanes;
  const bool use_wide = images * ((channels + wide - 1) / wide) >= torch::stable::get_num_threads();
  std::vector<Block> blocks;
  int64_t first = 0;
  while (first < channels) {
    const bool is_wide = use_wide && channels - first >= wide;
    const int64_t left = channels - first, most = is_wide ? wide : lanes;
    const int64_t count = left < most ? left : most;
    blocks.push_back({first, count, is_wide});
    first += count;
  }
  return blocks;
}

}  // namespace zigzag
