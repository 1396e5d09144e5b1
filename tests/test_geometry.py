"""Cells, areas, overlaps and membership counted pixel by pixel, at sizes where float32 arithmetic goes wrong too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import poisoned, random_valid
from oracle import cell, cell_counts

from zigzag import geometry

SIZES = (1, 2, 3, 5, 6, 7, 8, 30, 60, 119, 123, 246, 1000)
CELLS = (1, 2, 3, 4, 5, 7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cells", CELLS)
def test_cells_partition_the_rows(size, cells):
    index = geometry.cell_index(size, cells).tolist()
    starts = geometry.cell_starts(size, cells).tolist()
    assert index == [cell(h, size, cells) for h in range(size)]
    assert starts[0] == 0
    assert starts[-1] == size
    for y in range(cells):
        assert list(range(starts[y], starts[y + 1])) == [h for h in range(size) if index[h] == y]


def test_123_is_a_trap():
    by_float = torch.nn.functional.interpolate(torch.arange(3.0)[None, None], size=123, mode="nearest")[0, 0]
    assert by_float.long().tolist() != geometry.cell_index(123, 3).tolist()


def test_starts_of_several_images():
    sizes = torch.tensor([[1, 123], [7, 60]])
    starts = geometry.cell_starts(sizes, 3)
    assert starts.shape == (2, 2, 4)
    for size, found in zip(sizes.flatten().tolist(), starts.flatten(0, 1), strict=True):
        assert found.tolist() == geometry.cell_starts(size, 3).tolist()


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (15, 8)])
def test_areas_and_overlaps_count_pixels(size):
    grids = (3, 5, 7)
    pixels = list(np.ndindex(*size))
    masks = [
        [cell(h, size[0], grid) * grid + cell(w, size[1], grid) == region for h, w in pixels]
        for grid in grids
        for region in range(grid * grid)
    ]
    masks = np.array(masks, dtype=np.int64)
    areas = geometry.cell_areas(*size, grids)
    assert areas.tolist() == np.concatenate([cell_counts(*size, grid).flatten() for grid in grids]).tolist()
    assert areas.tolist() == masks.sum(1).tolist()
    assert geometry.overlap(*size, grids).tolist() == (masks @ masks.T).tolist()


def test_areas_and_overlaps_of_several_images():
    sizes = torch.tensor([[1, 1], [2, 9], [123, 60]])
    areas, overlaps = (of(sizes[:, 0], sizes[:, 1], (3, 5)) for of in (geometry.cell_areas, geometry.overlap))
    for n, (height, width) in enumerate(sizes.tolist()):
        assert areas[n].tolist() == geometry.cell_areas(height, width, (3, 5)).tolist()
        assert overlaps[n].tolist() == geometry.overlap(height, width, (3, 5)).tolist()


@pytest.mark.parametrize("size", [1, 2, 8, 123])
@pytest.mark.parametrize("halo", [0, 1, 2])
def test_membership_sums_shifted_cells(size, halo):
    cells, taps = 3, 2 * halo + 1
    rows = geometry.membership(size, cells, halo, torch.float64).tolist()
    for y in range(cells):
        for a in range(taps):
            read = [h + a - halo for h in range(size) if cell(h, size, cells) == y]
            assert rows[y * taps + a] == [float(p in read) for p in range(size)]


def test_level_sizes_round_up():
    first, second = geometry.level_sizes([[473, 472], [4, 1]], (4, 8))
    assert first.tolist() == [[119, 118], [1, 1]]
    assert second.tolist() == [[60, 59], [1, 1]]
    assert first.dtype == torch.int64


def test_crop_and_pad_are_inverse():
    generator = torch.Generator().manual_seed(0)
    valid = random_valid(generator, 3, 5, 4)
    batch = torch.randn(3, 2, 5, 4, generator=generator)
    images = geometry.crop_images(poisoned(batch, valid), valid)
    assert [tuple(image.shape[2:]) for image in images] == [tuple(size) for size in valid.tolist()]
    padded = geometry.pad_images(images, 5, 4)
    for n, (height, width) in enumerate(valid.tolist()):
        assert torch.equal(padded[n, :, :height, :width], batch[n, :, :height, :width])
        assert padded[n].count_nonzero() == 2 * height * width
