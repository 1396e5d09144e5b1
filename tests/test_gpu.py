"""What only a GPU can show: streams, graphs, no waiting for the device, tensors of more than 2^31 elements."""

from __future__ import annotations

import pytest
import torch

import zigzag
from zigzag.nn import ZigZagNeck

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

NAMES = ("cuda", "hopper", "triton")
SIZES = (30, 15)


@pytest.fixture(params=NAMES)
def name(request):
    reason = zigzag.backends()[request.param].reason
    if reason is not None:
        pytest.skip(reason)
    with zigzag.use_backend(request.param):
        yield request.param


def neck():
    torch.manual_seed(0)
    return ZigZagNeck((16, 16), 64, stages=2).cuda().to(memory_format=torch.channels_last)


def features(batch=2):
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(batch, 16, size, size, generator=generator).cuda() for size in SIZES]
    return [x.to(memory_format=torch.channels_last) for x in maps]


def test_kernels_run_on_the_current_stream(name):
    """A kernel on another stream would not wait for the values that this one is slow to write."""
    x = torch.zeros(2, 64, 33, 31, device="cuda")
    for operation in (lambda: zigzag.ops.region_stats(x, (1,), 0), lambda: zigzag.ops.dense_pathway(x, [x])):
        operation()  # what is compiled at its first call would come too late to be early
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.fill_(2)
        sums, power = zigzag.ops.region_stats(x, (1,), 0)
        output = zigzag.ops.dense_pathway(x, [x])
    torch.cuda.current_stream().wait_stream(stream)
    pixels = 33 * 31
    assert sums.eq(2 * pixels).all()
    assert power.eq(4 * pixels).all()
    assert output.eq(4).all()


def test_graph_capture(name):
    module, static = neck(), features()
    fresh = [torch.randn_like(x) for x in static]
    with torch.no_grad():
        expected = module(fresh)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            module(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = module(static)
        for x, value in zip(static, fresh, strict=True):
            x.copy_(value)
        graph.replay()
    for result, truth in zip(captured, expected, strict=True):
        torch.testing.assert_close(result, truth)


def test_reduce_overhead(name):
    module = neck()
    traced = torch.compile(module, mode="reduce-overhead", fullgraph=True)
    for _ in range(3):
        maps = [torch.randn_like(x) for x in features()]
        with torch.no_grad():
            for result, expected in zip(traced(maps), module(maps), strict=True):
                torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def gradients(function, module, maps):
    """Of everything that learns and of the maps; copies, which a later step leaves alone."""
    leaves = [x.detach().requires_grad_() for x in maps]
    loss = sum(result.square().sum() for result in function(leaves))
    return [gradient.clone() for gradient in torch.autograd.grad(loss, [*leaves, *module.parameters()])]


def test_a_training_step_is_captured(name):
    module, static = neck(), [x.requires_grad_() for x in features()]
    fresh = [torch.randn_like(x) for x in static]
    leaves = [*static, *module.parameters()]

    def step():
        sum(result.square().sum() for result in module(static)).backward()

    with torch.backends.cudnn.flags(enabled=True, deterministic=True):  # the convolutions are not ours
        expected = gradients(module, module, fresh)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(side)
        for leaf in leaves:
            leaf.grad = None  # what is captured gives memory of its own to every gradient, and writes it anew
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        with torch.no_grad():
            for x, value in zip(static, fresh, strict=True):
                x.copy_(value)
        for _ in range(2):
            graph.replay()
    for leaf, truth in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, truth)


def test_a_training_step_with_reduce_overhead(name):
    module = neck()
    traced = torch.compile(module, mode="reduce-overhead", fullgraph=True)
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        maps = [torch.randn_like(x) for x in features()]
        pairs = zip(gradients(traced, module, maps), gradients(module, module, maps), strict=True)
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_nothing_waits_for_the_gpu(name):
    module, maps = neck(), features()
    valid = [torch.tensor([[size, size - 3], [size - 2, size]]).cuda() for size in SIZES]

    def step(valid):
        leaves = [x.detach().requires_grad_() for x in maps]
        sum(result.square().sum() for result in module(leaves, valid=valid)).backward()

    for own in (None, valid):
        step(own)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(own)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_two_runs_agree_bit_for_bit(name, dtype):
    module = neck().to(dtype)
    found = []
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):  # the convolutions are not ours
        for _ in range(2):
            leaves = [x.to(dtype).requires_grad_() for x in features()]
            results = module(leaves)
            ours = [p for key, p in module.named_parameters() if "context" in key or "gain" in key]
            found.append([*results, *torch.autograd.grad(sum(r.float().square().sum() for r in results), ours)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_several_tiles_have_the_same_bits_every_time(name, dtype):
    """On Hopper a product can run on behind what follows it, and what it reads be written anew."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator).cuda().to(dtype).to(memory_format=torch.channels_last)

    base, source, bias, grids = (
        noise(4, 128, 119, 119),
        noise(4, 128, 60, 60),
        torch.zeros(128).cuda().to(dtype),
        (3, 5, 7),
    )
    branches = [[x for size in (3, k, k) for x in (noise(128, 128, size, size), bias)] for k in grids]

    def run():
        sums, power = zigzag.ops.region_stats(base, grids, 1)
        codes = zigzag.ops.region_codes(sums, branches, grids, height=119, width=119)
        return [sums, power, codes, zigzag.ops.dense_pathway(base, [source])]

    first = run()
    for _ in range(20):
        assert all(map(torch.equal, run(), first))


# Of one image more than 2^31 elements, so that from the second on images begin where 32 bits do not reach.
HEIGHT, WIDTH, CHANNELS, ROWS = 1040, 8192, 256, 130


def large(batch, needed):
    """Zeros, and ones in the last image's last ROWS rows; ``needed`` is in GiB."""
    torch.cuda.empty_cache()  # what an earlier test's maps left
    if torch.cuda.mem_get_info()[0] < needed << 30:
        pytest.skip(f"needs {needed} GiB of free GPU memory")
    x = torch.zeros(batch, HEIGHT, WIDTH, CHANNELS, dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
    x[-1, :, -ROWS:] = 1
    return x


@pytest.mark.parametrize(("batch", "needed"), [(1, 24), (2, 48)])
def test_more_elements_than_32_bits_count(name, batch, needed):
    """The last pixels of a map of 2.2e9 elements an image, as those of a small one."""
    x = large(batch, needed)
    sums, power = zigzag.ops.region_stats(x, (8,), 0)
    cell = ROWS * (WIDTH // 8)
    assert sums[-1].view(8, 8, CHANNELS)[-1].eq(cell).all()
    assert sums[-1].view(8, 8, CHANNELS)[:-1].eq(0).all()
    assert power[-1].eq(8 * cell).all()
    assert not sums[:-1].any()
    assert not power[:-1].any()
    output = zigzag.ops.dense_pathway(x, [x[:, :, :1, :1]], combine="sum")
    assert torch.equal(output, x)


@pytest.mark.parametrize(("batch", "needed"), [(1, 24), (2, 48)])
def test_more_elements_than_32_bits_count_in_region_stats_backward(name, batch, needed):
    x = large(batch, needed).requires_grad_()
    sums, power = zigzag.ops.region_stats(x, (8,), 0)
    of_sums = torch.zeros_like(sums)
    of_sums[-1].view(8, 8, CHANNELS)[-1] = 3
    (gradient,) = torch.autograd.grad([sums, power], x, [of_sums, torch.ones_like(power)])
    assert gradient[-1, :, -ROWS:].eq(3 + 2).all()
    assert torch.count_nonzero(gradient).item() == CHANNELS * ROWS * WIDTH


@pytest.mark.parametrize(("batch", "needed"), [(1, 48), (2, 96)])
def test_more_elements_than_32_bits_count_in_dense_pathway_backward(name, batch, needed):
    """A source as large as the base; the gradient of their sum is the same for both."""
    x = large(batch, needed)
    base, source = (x.detach().requires_grad_() for _ in range(2))
    output = zigzag.ops.dense_pathway(base, [source])
    assert output.detach()[-1, :, -ROWS:].eq(2).all()
    for gradient in torch.autograd.grad(output, [base, source], x):
        assert torch.equal(gradient, x)
