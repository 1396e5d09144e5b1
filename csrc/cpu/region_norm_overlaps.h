// The cells of several grids on one map, and the pixels that they share: region_norm's geometry, and its sums over it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../geometry.h"
#include "tensors.h"

namespace zigzag {

constexpr int64_t kLanes = 16;  // as many as stay in registers

// One value for each of a few channels side by side, in pairs: vectors that every machine has.
struct Lanes {
  typedef double Pair __attribute__((vector_size(16), may_alias));
  Pair pairs[kLanes / 2];

  double* values() { return reinterpret_cast<double*>(pairs); }
  const double* values() const { return reinterpret_cast<const double*>(pairs); }
};

inline void add_product(Lanes& to, double factor, const Lanes& from) {
  for (int64_t i = 0; i < kLanes / 2; ++i) to.pairs[i] += factor * from.pairs[i];
}

inline void add_product(Lanes& to, const Lanes& left, const Lanes& right) {
  for (int64_t i = 0; i < kLanes / 2; ++i) to.pairs[i] += left.pairs[i] * right.pairs[i];
}

struct Grid {
  int64_t size, first_line, first_cell;  // K, and where the grid's lines and cells lie among those of all grids
};

struct Grids {
  explicit Grids(const std::vector<int64_t>& sizes) {
    for (const int64_t size : sizes) {
      each.push_back({size, lines, cells});
      lines += size;
      cells += size * size;
      largest = std::max(largest, size);
    }
    core = sizes[0] * sizes[0];
  }

  std::vector<Grid> each;
  int64_t lines = 0, cells = 0, largest = 0;
  int64_t core = 0;  // cells of the first grid, which make up the image
};

// The lines (rows or columns of cells) of all grids along one axis, and with which lines each of them shares pixels.
struct Axis {
  struct Shared {
    int64_t line;
    double pixels;
  };

  Axis(int64_t size, const Grids& grids) : grid_count(static_cast<int64_t>(grids.each.size())) {
    std::vector<int64_t> start, end;
    for (const Grid& grid : grids.each) {
      for (int64_t y = 0; y < grid.size; ++y) {
        start.push_back(cell_start(y, size, grid.size));
        end.push_back(cell_start(y + 1, size, grid.size));
      }
    }
    for (int64_t line = 0; line < grids.lines; ++line) {
      pixels.push_back(static_cast<double>(end[line] - start[line]));
      for (const Grid& grid : grids.each) {
        first.push_back(static_cast<int64_t>(shared.size()));
        for (int64_t other = grid.first_line; other < grid.first_line + grid.size; ++other) {
          const int64_t common = std::min(end[line], end[other]) - std::max(start[line], start[other]);
          if (common > 0) shared.push_back({other, static_cast<double>(common)});
        }
      }
    }
    first.push_back(static_cast<int64_t>(shared.size()));
  }

  // Calls `use` with every line of one grid, or of all grids, that shares pixels with `line`.
  template <class Use>
  void for_shared(int64_t line, int64_t grid, const Use& use) const {
    visit(first[line * grid_count + grid], first[line * grid_count + grid + 1], use);
  }

  template <class Use>
  void for_shared(int64_t line, const Use& use) const {
    visit(first[line * grid_count], first[(line + 1) * grid_count], use);
  }

  std::vector<double> pixels;  // of every line

 private:
  template <class Use>
  void visit(int64_t begin, int64_t end, const Use& use) const {
    for (int64_t i = begin; i < end; ++i) use(shared[i]);
  }

  int64_t grid_count;
  std::vector<Shared> shared;
  std::vector<int64_t> first;  // in `shared`, for every line and grid, and the end
};

// The geometry of one image.
struct Plan {
  Plan(const Extent& extent, const Grids& grids)
      : rows(extent.height, grids),
        columns(extent.width, grids),
        pixels(static_cast<double>(extent.height) * static_cast<double>(extent.width)) {
    for (const Grid& grid : grids.each) {
      for (int64_t y = grid.first_line; y < grid.first_line + grid.size; ++y) {
        for (int64_t x = grid.first_line; x < grid.first_line + grid.size; ++x) {
          areas.push_back(rows.pixels[y] * columns.pixels[x]);
        }
      }
    }
  }

  Axis rows, columns;
  double pixels;              // of the image
  std::vector<double> areas;  // of every cell
};

// t_s += sum_s' |s, s'| q_s', over the columns and then over the rows. `line_sums` holds lines * largest K.
inline void add_overlaps(const Grids& grids, const Plan& plan, const Lanes* q, Lanes* t, Lanes* line_sums) {
  const int64_t count = static_cast<int64_t>(grids.each.size());
  for (const Grid& to : grids.each) {
    for (int64_t g = 0; g < count; ++g) {
      const Grid& from = grids.each[g];
      for (int64_t y = 0; y < from.size; ++y) {
        const Lanes* row = q + from.first_cell + y * from.size;
        for (int64_t x = 0; x < to.size; ++x) {
          Lanes sum{};
          plan.columns.for_shared(to.first_line + x, g, [&](const Axis::Shared& other) {
            add_product(sum, other.pixels, row[other.line - from.first_line]);
          });
          line_sums[(from.first_line + y) * to.size + x] = sum;
        }
      }
    }
    for (int64_t y = 0; y < to.size; ++y) {
      for (int64_t x = 0; x < to.size; ++x) {
        Lanes sum = t[to.first_cell + y * to.size + x];
        plan.rows.for_shared(to.first_line + y, [&](const Axis::Shared& other) {
          add_product(sum, other.pixels, line_sums[other.line * to.size + x]);
        });
        t[to.first_cell + y * to.size + x] = sum;
      }
    }
  }
}

}  // namespace zigzag
