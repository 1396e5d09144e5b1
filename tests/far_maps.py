"""Maps whose parts lie more than 2^31 elements apart, in a file that takes a few pages: a product that is taken in 32
bits comes out as 0 and reads what is there."""

import torch

FAR = 1 << 32
"""Elements from one image (channel, row, column) to the next: 0 in 32 bits, whether signed or not."""

AXES = ("images", "channels", "rows", "columns")
SHAPE = (2, 4, 2, 2)
GRIDS, HALO = [1, 2], 1
_APART = 256  # elements between the beginnings of maps


def integers(*sizes):
    """Small ones: sums and products of them are exact, in whatever order."""
    return torch.randint(-3, 4, sizes, generator=torch.Generator().manual_seed(sum(sizes))).float()


def maps(count):
    """(N, C, H, W), all different, channels_last."""
    return [(integers(*SHAPE) + i).contiguous(memory_format=torch.channels_last) for i in range(count)]


def spread(found, axis, path):
    """The same maps with one axis far apart."""
    size = FAR * (max(SHAPE) - 1) + _APART * (len(found) + 1)
    storage = torch.from_file(str(path), shared=True, size=size, dtype=torch.float32)
    far = []
    for i, x in enumerate(found):
        strides = [*x.stride()]
        strides[AXES.index(axis)] = FAR
        far.append(storage.as_strided(SHAPE, strides, _APART * i).copy_(x))
    return far


def run(operations, given):
    """Results of a backend's own operations, which take maps as they lie, forward and backward."""
    x, others, source, residual = given
    n, c = SHAPE[:2]
    cells = sum(k * k for k in GRIDS)
    entries = cells * (2 * HALO + 1) ** 2
    codes, gain = integers(n, cells, c), integers(c)
    affine = integers(n, c), integers(n, c) + 1
    shared = [[source], [codes], *affine, [affine[0]], [affine[1]], gain]
    flags = [None, [None], GRIDS, True, True, False]
    operands = [integers(n, entries, c), integers(n, c), GRIDS, HALO, None]
    return [
        *operations.region_stats(x, GRIDS, HALO, None),
        operations.region_stats_backward(x, *operands, others),
        *operations.dense_pathway(x, *shared, residual, *flags),
        *operations.dense_pathway_backward(others, residual, x, *shared, *flags),
    ]
