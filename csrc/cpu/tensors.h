// What the CPU's bindings share: the sizes of images, the parallel loop over tasks, blocks of channels.
#pragma once

#include "../tensors.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "map.h"

namespace zigzag {

// (height, width) of every image: its own where `valid` (N, 2) is given, the map's otherwise.
struct Extent {
  int64_t height, width;
  bool operator==(const Extent& other) const { return height == other.height && width == other.width; }
};

inline std::vector<Extent> extents(const Map& map, const std::optional<Tensor>& valid) {
  std::vector<Extent> sizes(map.n, Extent{map.h, map.w});
  if (!valid.has_value()) return sizes;
  const auto* data = static_cast<const int64_t*>(valid->const_data_ptr());
  for (int64_t n = 0; n < map.n; ++n) {
    sizes[n] = {data[2 * n], data[2 * n + 1]};
    // Python checks this too, but not in compiled calls.
    STD_TORCH_CHECK(sizes[n].height >= 1 && sizes[n].height <= map.h && sizes[n].width >= 1 && sizes[n].width <= map.w,
                    "zigzag: valid must lie within 1 .. height and 1 .. width, got ", sizes[n].height, " x ",
                    sizes[n].width, " for image ", n, " of maps of ", map.h, " x ", map.w);
  }
  return sizes;
}

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};

// Calls `work(begin, end, scratch)` on torch's own threads; one scratch of `bytes` per call, aligned to a cache line.
template <class Work>
void parallel_tasks(int64_t tasks, int64_t bytes, const Work& work) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    std::unique_ptr<void, FreeAligned> scratch(std::aligned_alloc(64, (bytes + 127) / 64 * 64));
    if (!scratch) std::abort();
    work(begin, end, scratch.get());
  });
}

// How many blocks an image needs for all threads to have work.
inline int64_t blocks_wanted(int64_t images) {
  const int64_t threads = torch::stable::get_num_threads();
  return images > 0 ? (threads + images - 1) / images : 1;
}

// Channels cut into blocks of `widest` vectors or, where those are fewer than `wanted` per image or channels are left,
// of four or of one. A channel's arithmetic is the same in all of them, so results do not depend on the choice.
std::vector<Block> channel_blocks(int64_t channels, bool f64, int widest, int64_t wanted);

}  // namespace zigzag
