"""The operations and the neck by plain loops in extended precision: what every backend is measured against.

Written from the equations alone and sharing nothing with the package: no imports from it, no matrices of ones, no
commuting of sums and convolutions in the context and the neck. Arrays are numpy, maps are (N, C, H, W).
"""

from __future__ import annotations

import numpy as np

# Wider than float64 where the platform has it, so that a float64 result can be measured too.
REAL = np.longdouble
# GroupNorm's, as nn.GroupNorm has it.
EPSILON = REAL("1e-5")


def real(array):
    return np.asarray(array).astype(REAL)


def sizes_of(valid, number, height, width):
    """The (height, width) of every image: its own under `valid`, the map's otherwise."""
    if valid is None:
        return [(height, width)] * number
    return [(int(h), int(w)) for h, w in np.asarray(valid)]


def cell(index, size, cells):
    return index * cells // size


def cell_counts(height, width, grid):
    counts = np.zeros((grid, grid), dtype=REAL)
    for h in range(height):
        for w in range(width):
            counts[cell(h, height, grid), cell(w, width, grid)] += 1
    return counts


# --- region_stats -----------------------------------------------------------------------------------------------------


def region_stats(x, grids=(3, 5, 7), halo=1, valid=None):
    """(sums (N, S, C), power (N, C))."""
    x = real(x)
    number, channels, height, width = x.shape
    taps = 2 * halo + 1
    sums = np.zeros((number, sum(grid * grid * taps * taps for grid in grids), channels), dtype=REAL)
    power = np.zeros((number, channels), dtype=REAL)
    for n, (rows, columns) in enumerate(sizes_of(valid, number, height, width)):
        power[n] = (x[n, :, :rows, :columns] ** 2).sum(axis=(1, 2))
        first = 0
        for grid in grids:
            for h in range(rows):
                for w in range(columns):
                    region = cell(h, rows, grid) * grid + cell(w, columns, grid)
                    for a in range(taps):
                        for b in range(taps):
                            row, column = h + a - halo, w + b - halo
                            if 0 <= row < rows and 0 <= column < columns:
                                slot = first + region * taps * taps + a * taps + b
                                sums[n, slot] += x[n, :, row, column]
            first += grid * grid * taps * taps
    return sums, power


# --- region_codes -----------------------------------------------------------------------------------------------------


def codes_of_cells(pooled, aggregate_w, aggregate_b, distribute_w, distribute_b):
    """(K, K, C) pooled cells -> (K, K, C) codes: global convolution, relu, deconvolution (Eq. 6)."""
    grid = pooled.shape[0]
    vector = aggregate_b.copy()
    for y in range(grid):
        for x in range(grid):
            vector = vector + aggregate_w[:, :, y, x] @ pooled[y, x]
    vector = np.where(vector > 0, vector, 0)
    codes = np.zeros((grid, grid, distribute_w.shape[1]), dtype=REAL)
    for y in range(grid):
        for x in range(grid):
            codes[y, x] = vector @ distribute_w[:, :, y, x] + distribute_b
    return codes


def pool_cells(sums, counts, pool):
    """Sum or mean of each cell; the mean of an empty cell is 0."""
    if pool == "sum":
        return sums
    return sums / np.where(counts == 0, 1, counts)[:, :, None]


def region_codes(sums, branches, grids=(3, 5, 7), *, height, width, pool="sum", valid=None):
    """(N, sum K*K, C)."""
    sums = real(sums)
    number, _, channels = sums.shape
    codes = np.zeros((number, sum(grid * grid for grid in grids), channels), dtype=REAL)
    for n, (rows, columns) in enumerate(sizes_of(valid, number, height, width)):
        read = written = 0
        for grid, branch in zip(grids, branches, strict=True):
            conv_w, conv_b, *rest = (real(parameter) for parameter in branch)
            taps = conv_w.shape[-1]
            counts = cell_counts(rows, columns, grid)
            convolved = np.zeros((grid, grid, channels), dtype=REAL)
            for y in range(grid):
                for x in range(grid):
                    convolved[y, x] = counts[y, x] * conv_b
                    for a in range(taps):
                        for b in range(taps):
                            convolved[y, x] += conv_w[:, :, a, b] @ sums[n, read]
                            read += 1
            found = codes_of_cells(pool_cells(convolved, counts, pool), *rest)
            codes[n, written : written + grid * grid] = found.reshape(grid * grid, channels)
            written += grid * grid
    return codes


# --- region_norm ------------------------------------------------------------------------------------------------------


def region_norm(x, codes, grids=(3, 5, 7), *, weight, bias, groups, eps=EPSILON, valid=None):
    """Scale and shift (N, C) of a GroupNorm of R, which is built pixel by pixel from the map and the codes."""
    x, weight, bias = real(x), real(weight), real(bias)
    number, channels, height, width = x.shape
    scale, shift = np.zeros((number, channels), dtype=REAL), np.zeros((number, channels), dtype=REAL)
    for n, (rows, columns) in enumerate(sizes_of(valid, number, height, width)):
        image = x[n, :, :rows, :columns]
        if codes is not None:
            image = add_codes(image, real(codes)[n], grids)
        parts = image.reshape(groups, -1)
        mean = parts.mean(axis=1)
        deviation = np.sqrt(((parts - mean[:, None]) ** 2).mean(axis=1) + REAL(eps))
        of_channel = np.arange(channels) // (channels // groups)
        scale[n] = weight / deviation[of_channel]
        shift[n] = bias - mean[of_channel] * scale[n]
    return scale, shift


# --- dense_pathway ----------------------------------------------------------------------------------------------------


def axis_weights(target, source, resize):
    """For each target index the list of (source index, weight) that it reads."""
    rows = []
    for d in range(target):
        if resize == "nearest":
            rows.append([(d * source // target, REAL(1))])
        elif target < source:
            start, stop = d * source // target, -(-((d + 1) * source) // target)
            rows.append([(s, REAL(1) / (stop - start)) for s in range(start, stop)])
        else:
            centre = REAL((2 * d + 1) * source - target) / (2 * target)
            centre = max(centre, REAL(0))
            low = int(centre)
            high = min(low + 1, source - 1)
            rows.append([(low, 1 - (centre - low)), (high, centre - low)])
    return rows


def resized(image, height, width, resize):
    """(C, h, w) -> (C, height, width)."""
    out = np.zeros((image.shape[0], height, width), dtype=REAL)
    down, across = axis_weights(height, image.shape[1], resize), axis_weights(width, image.shape[2], resize)
    for h in range(height):
        for w in range(width):
            for row, row_weight in down[h]:
                for column, column_weight in across[w]:
                    if row_weight and column_weight:
                        out[:, h, w] += row_weight * column_weight * image[:, row, column]
    return out


def add_codes(image, codes, grids):
    """(C, h, w) plus each grid's code of the pixel's cell; codes (sum K*K, C)."""
    out = image.copy()
    _, height, width = image.shape
    first = 0
    for grid in grids:
        for h in range(height):
            for w in range(width):
                out[:, h, w] += codes[first + cell(h, height, grid) * grid + cell(w, width, grid)]
        first += grid * grid
    return out


def scaled(image, affine, n):
    if affine is None:
        return image
    scale, shift = (real(part)[n] for part in affine)
    return scale[:, None, None] * image + shift[:, None, None]


def combined(maps, combine):
    total = maps[0]
    for other in maps[1:]:
        total = total * other if combine == "product" else total + other
    return total


def entry(entries, index):
    return None if entries is None else entries[index]


def dense_pathway(
    base,
    sources,
    codes=None,
    grids=(3, 5, 7),
    *,
    base_affine=None,
    base_relu=False,
    source_affine=None,
    gain=None,
    combine="product",
    resize="linear",
    residual=None,
    valid=None,
    source_valid=None,
):
    """The output (N, C, H, W), or the pair (output, output + residual)."""
    base, sources = real(base), [real(source) for source in sources]
    number, _, height, width = base.shape
    out = np.zeros_like(base)
    for n, (rows, columns) in enumerate(sizes_of(valid, number, height, width)):
        image = scaled(base[n, :, :rows, :columns], base_affine, n)
        if base_relu:
            image = np.where(image > 0, image, 0)
        maps = []
        for j, source in enumerate(sources):
            h, w = sizes_of(entry(source_valid, j), number, *source.shape[2:])[n]
            context = source[n, :, :h, :w]
            if entry(codes, j) is not None:
                context = add_codes(context, real(codes[j])[n], grids)
            maps.append(resized(scaled(context, entry(source_affine, j), n), rows, columns, resize))
        if maps:
            strength = REAL(1) if gain is None else real(gain)[:, None, None]
            image = image + strength * combined(maps, combine)
        out[n, :, :rows, :columns] = image
    if residual is None:
        return out
    total = np.zeros_like(out)
    for n, (rows, columns) in enumerate(sizes_of(valid, number, height, width)):
        total[n, :, :rows, :columns] = out[n, :, :rows, :columns] + real(residual)[n, :, :rows, :columns]
    return out, total


# --- Region Context Encoding and the neck, literally: one image at a time ---------------------------------------------


def convolution(image, weight, bias=None):
    """Stride 1, zeros outside, same size: (C, h, w) -> (O, h, w)."""
    weight = real(weight)
    outputs, _, taps, _ = weight.shape
    _, height, width = image.shape
    out = np.zeros((outputs, height, width), dtype=REAL)
    if bias is not None:
        out += real(bias)[:, None, None]
    for h in range(height):
        for w in range(width):
            for a in range(taps):
                for b in range(taps):
                    row, column = h + a - taps // 2, w + b - taps // 2
                    if 0 <= row < height and 0 <= column < width:
                        out[:, h, w] += weight[:, :, a, b] @ image[:, row, column]
    return out


def group_norm(image, weight, bias, groups):
    parts = image.reshape(groups, -1)
    mean = parts.mean(axis=1, keepdims=True)
    variance = ((parts - mean) ** 2).mean(axis=1, keepdims=True)
    normal = ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(image.shape)
    return normal * real(weight)[:, None, None] + real(bias)[:, None, None]


def image_context(image, parameters, prefix, grids, pool):
    """R of one image (C, h, w): convolve in full, pool, aggregate, relu, distribute, spread, add (Eqs. 5, 6)."""
    _, height, width = image.shape
    out = image.copy()
    for grid in grids:
        names = [f"{part}.{kind}" for part in ("conv", "aggregate", "distribute") for kind in ("weight", "bias")]
        conv_w, conv_b, *rest = (real(parameters[f"{prefix}.branches.{grid}.{name}"]) for name in names)
        convolved = convolution(image, conv_w, conv_b)
        sums = np.zeros((grid, grid, image.shape[0]), dtype=REAL)
        for h in range(height):
            for w in range(width):
                sums[cell(h, height, grid), cell(w, width, grid)] += convolved[:, h, w]
        codes = codes_of_cells(pool_cells(sums, cell_counts(height, width, grid), pool), *rest)
        for h in range(height):
            for w in range(width):
                out[:, h, w] += codes[cell(h, height, grid), cell(w, width, grid)]
    return out


def region_context(x, parameters, prefix="", *, grids=(3, 5, 7), pool="mean", valid=None):
    """R of a batch (N, C, H, W), 0 outside `valid`."""
    x = real(x)
    out = np.zeros_like(x)
    for n, (rows, columns) in enumerate(sizes_of(valid, len(x), *x.shape[2:])):
        out[n, :, :rows, :columns] = image_context(x[n, :, :rows, :columns], parameters, prefix, grids, pool)
    return out


def fused(total, parameters, prefix, config):
    """relu(norm(W * total)), Eqs. (2) and (4)."""
    out = convolution(total, parameters[f"{prefix}.conv.weight"], parameters.get(f"{prefix}.conv.bias"))
    if config.fusion_norm:
        out = group_norm(
            out, parameters[f"{prefix}.norm.weight"], parameters[f"{prefix}.norm.bias"], config.norm_groups
        )
    return np.where(out > 0, out, 0)


def with_context(level, contexts, parameters, prefix, config):
    """F = P + gain * the product of the contexts, each resized to this level (Eqs. 1 and 3)."""
    if not contexts:
        return level
    product = combined([resized(context, *level.shape[1:], config.resize) for context in contexts], config.combine)
    if config.gain is not None:
        product = real(parameters[f"{prefix}.gain"])[:, None, None] * product
    return level + product


def context_of(level, parameters, prefix, config):
    out = image_context(level, parameters, f"{prefix}.context", config.grids, config.pool)
    if config.context_norm:
        names = (f"{prefix}.context_norm.weight", f"{prefix}.context_norm.bias")
        out = group_norm(out, *(parameters[name] for name in names), config.norm_groups)
    return out


def image_sweep(entries, order, prefix, parameters, config):
    """F of every level, in `order`."""
    outs, contexts = list(entries), []
    for i in order:
        name = f"{prefix}.{i}"
        seen = contexts if config.dense else contexts[-1:]
        outs[i] = with_context(entries[i], seen, parameters, name, config)
        if i != order[-1]:
            contexts.append(context_of(outs[i], parameters, name, config))
    return outs


def image_neck(bases, parameters, config):
    """The stages for one image; bases are its levels (C, h, w), finest first."""
    levels = list(range(len(bases)))
    sweeps = [("down", levels[::-1])] + [("up", levels)] * config.bottom_up
    current, previous = bases, None
    for t in range(config.stages):
        for direction, order in sweeps:
            exchanged = config.exchange and config.bottom_up and previous is not None
            entries = [x + y for x, y in zip(current, previous, strict=True)] if exchanged else current
            if direction == "up" and t == config.stages - 1:
                entries, order = entries[: config.given], order[: config.given]
            if t > 0 and config.fusion:
                names = [f"stages.{t}.{direction}.{i}.fusion" for i in sorted(order)]
                entries = [fused(x, parameters, name, config) for x, name in zip(entries, names, strict=True)]
            first = t == 0 and direction == "down"
            swept = image_sweep(entries, order, f"stages.{t}.{direction}", parameters, config)
            previous, current = None if first else current, swept
    if config.exchange and config.bottom_up:
        current = [x + y for x, y in zip(current, previous, strict=False)]
    current = current[: config.given]
    return [fused(x, parameters, f"output.{i}", config) for i, x in enumerate(current)] if config.fusion else current


def neck(features, parameters, config, *, valid=None, laterals=True):
    """The maps P_{T+1}, 0 outside `valid` ((N, 2) per level); `laterals=False` takes the lateral outputs themselves."""
    features = [real(feature) for feature in features]
    parameters = {name: np.asarray(value) for name, value in parameters.items()}
    number = len(features[0])
    channels = config.out_channels
    outs = [np.zeros((number, channels, *feature.shape[2:]), dtype=REAL) for feature in features[: config.given]]
    for n in range(number):
        sizes = [sizes_of(entry(valid, i), number, *feature.shape[2:])[n] for i, feature in enumerate(features)]
        levels = [feature[n, :, :h, :w] for feature, (h, w) in zip(features, sizes, strict=True)]
        if laterals:
            names = [(f"lateral.{i}.weight", f"lateral.{i}.bias") for i in range(len(levels))]
            levels = [
                convolution(level, parameters[weight], parameters[bias])
                for level, (weight, bias) in zip(levels, names, strict=True)
            ]
        for out, level, (h, w) in zip(outs, image_neck(levels, parameters, config), sizes, strict=False):
            out[n, :, :h, :w] = level
    return outs
