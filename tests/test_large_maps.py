"""Maps whose strides 32 bits do not hold, without memory for what lies between; tests/test_gpu.py has whole ones."""

import pytest
import torch
from checks import assert_same_bits
from far_maps import AXES, maps, run, spread

import zigzag
from zigzag import _library
from zigzag.ops.registration import NAMESPACES


@pytest.fixture(params=["cpu", "cuda"])
def operations(request):
    backend = zigzag.backends()[request.param]
    if not backend.available or backend.device != "cpu":
        pytest.skip(backend.reason or "takes maps of the GPU: see tests/test_gpu.py")
    return getattr(torch.ops, NAMESPACES[request.param])


@pytest.mark.parametrize("axis", AXES)
def test_addresses_are_counted_in_64_bits(operations, axis, tmp_path):
    given = maps(4)
    near, far = run(operations, given), run(operations, spread(given, axis, tmp_path / "maps"))
    assert_same_bits(far, near, axis)


def test_a_map_that_there_is_no_memory_for_is_named(operations):
    """Whatever torch says of it, which before 2.13 is nothing."""
    if _library.build_info().get("sanitize"):
        pytest.skip("a sanitizer that is loaded first takes what an exception leaves on the stack for an overflow")
    x = torch.zeros(1).expand(1, 1, 1 << 31, 1 << 31)
    message = r"no memory for a map \(1, 1, 2147483648, 2147483648\): "
    with pytest.raises(RuntimeError, match=message):
        operations.region_stats_backward(x, torch.zeros(1, 1, 1), torch.zeros(1, 1), [1], 0, None, None)
