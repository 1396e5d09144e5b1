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


def test_more_elements_than_32_bits_count(name):
    """The last pixels of a map of 2.2e9 elements, as those of a small one."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    height, width, channels = 1040, 8192, 256
    x = torch.zeros(1, channels, height, width, dtype=torch.bfloat16, device="cuda")
    x = x.to(memory_format=torch.channels_last)
    x[:, :, -130:] = 1
    sums, power = zigzag.ops.region_stats(x, (8,), 0)
    cell = 130 * (width // 8)
    assert sums.view(8, 8, channels)[-1].eq(cell).all()
    assert sums.view(8, 8, channels)[:-1].eq(0).all()
    assert power.eq(8 * cell).all()
    output = zigzag.ops.dense_pathway(x, [x[:, :, :1, :1]], combine="sum")
    assert torch.equal(output, x)
