"""`region_norm` on every backend: the oracle's results, float64's gradients, one image's and a padded batch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import GRIDS, NormCase, eighths, norm_cases, normal
from checks import assert_same_bits, check_forward, check_gradcheck, check_gradients, outputs
from hypothesis import given
from hypothesis import strategies as st

from zigzag import reference

CASES = list(norm_cases())
FLOAT64 = (torch.float64,) * 3

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case, backend):
    check_forward(case.problem(), backend.region_norm, reference.region_norm)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, backend):
    check_gradients(case.problem(), backend.region_norm, reference.region_norm)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("grids", GRIDS, ids=str)
def test_gradcheck(grids, groups, padded, backend):
    case = NormCase((2, 4, 4, 3), *FLOAT64, grids=grids, groups=groups, padded=padded)
    check_gradcheck(case.problem(), backend.region_norm)


@pytest.mark.parametrize("groups", [1, 4])
def test_gradcheck_without_codes(groups, backend):
    case = NormCase((2, 4, 4, 3), torch.float64, torch.float64, None, groups=groups)
    check_gradcheck(case.problem(), backend.region_norm)


@pytest.mark.parametrize("power", [18.0, 17.0], ids=["zero", "negative"])
def test_values_without_variance(power, backend):
    """The variance of (3, 3) is 0, and below where sums do not fit each other: then it has no gradient."""
    sums, power = (torch.full(shape, value, requires_grad=True) for shape, value in (((1, 1, 1), 6.0), ((1, 1), power)))
    one = torch.ones(1)
    scale, shift = backend.region_norm(sums, power, None, (1,), weight=one, bias=one, groups=1, height=1, width=2)
    inverse = 1e-5**-0.5
    assert (scale.item(), shift.item()) == pytest.approx((inverse, 1 - 3 * inverse))
    grad_sums, grad_power = torch.autograd.grad(scale.sum(), (sums, power), retain_graph=True)
    slope = -(inverse**3) / 2 if power.item() == 18 else 0.0
    assert (grad_sums.item(), grad_power.item()) == pytest.approx((-3 * slope, slope / 2))
    assert torch.autograd.grad(shift.sum(), power)[0].item() == pytest.approx(-3 * slope / 2)


def test_a_mean_that_is_large_beside_the_deviation(backend):
    """From exact sums, a variance of one part in a million of the squares has float32's digits still."""
    x = eighths(torch.Generator().manual_seed(0), 1, 4, 6, 5).double() + 1024
    sums, power = x.sum((2, 3))[:, None], x.square().sum((2, 3))
    weight, bias = torch.ones(4), torch.zeros(4)
    norm = {"weight": weight, "bias": bias, "groups": 2}
    scale, shift = backend.region_norm(sums, power, None, (1,), **norm, height=6, width=5)
    folded = scale.double()[..., None, None] * x + shift.double()[..., None, None]
    expected = F.group_norm(x, 2, weight.double(), bias.double())
    torch.testing.assert_close(folded, expected, rtol=0, atol=1024 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("used", [0, 1], ids=["scale", "shift"])
def test_gradient_of_one_result_alone(used, backend):
    problem = NormCase((2, 6, 6, 4), *FLOAT64, groups=2).problem()
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
    options = {"allow_unused": True, "materialize_grads": True}
    found, expected = (
        torch.autograd.grad(problem.call(operation, tensors)[used].sum(), list(tensors.values()), **options)
        for operation in (backend.region_norm, reference.region_norm)
    )
    torch.testing.assert_close(found, expected)


def test_only_what_is_asked_for_has_a_gradient(backend):
    problem = NormCase((2, 6, 6, 4), groups=2).problem()
    tensors = problem.tensors | {"codes": problem.tensors["codes"].detach().requires_grad_()}
    scale, shift = problem.call(backend.region_norm, tensors)
    (scale.sum() + shift.sum()).backward()
    assert tensors["codes"].grad is not None
    assert all(tensors[name].grad is None for name in tensors.keys() - {"codes"})


@pytest.mark.parametrize("codes", [torch.float32, None], ids=str)
def test_batch_mates_and_padding_change_nothing(codes, compiled):
    """Not of the reference: a library's product may sum in another order for another number of images."""
    generator = torch.Generator().manual_seed(0)
    images = [eighths(generator, 1, 20, *size) for size in ((13, 17), (2, 30), (40, 5))]
    valid = torch.tensor([image.shape[2:] for image in images])
    sums, powers = zip(*(reference.region_stats(image, halo=0) for image in images), strict=True)
    coded = None if codes is None else normal(generator, 3, 83, 20, dtype=codes)
    weight, bias = normal(generator, 2, 20)
    norm = {"weight": weight, "bias": bias, "groups": 4}
    tables = torch.cat(sums), torch.cat(powers), coded
    together = compiled.region_norm(*tables, **norm, height=40, width=30, valid=valid)
    for n, (height, width) in enumerate(valid.tolist()):
        own = [None if table is None else table[n : n + 1] for table in tables]
        alone = compiled.region_norm(*own, **norm, height=height, width=width)
        assert_same_bits(alone, [result[n : n + 1] for result in together], f"image {n}")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
def test_sizes_may_be_of_any_integer_dtype(dtype, backend):
    case = NormCase((2, 6, 20, 30), groups=2)
    problem, valid = case.problem(), torch.tensor([[20, 30], [17, 29]])
    results = (case.call(backend.region_norm, problem.tensors, valid=sizes) for sizes in (valid, valid.to(dtype)))
    assert_same_bits(*results, str(dtype))


def test_the_affine_is_a_group_norm_of_the_map(backend):
    """What the operation is for, on a map itself."""
    x = normal(torch.Generator().manual_seed(0), 2, 6, 9, 7, dtype=torch.float64)
    sums, power = reference.region_stats(x, halo=0)
    weight, bias = normal(torch.Generator().manual_seed(1), 2, 6, dtype=torch.float64)
    scale, shift = backend.region_norm(sums, power, weight=weight, bias=bias, groups=3, height=9, width=7)
    folded = scale[..., None, None] * x + shift[..., None, None]
    torch.testing.assert_close(folded, F.group_norm(x, 3, weight, bias))


def test_outputs_do_not_depend_on_the_layout(compiled):
    layouts = [NormCase((2, 20, 9, 6), layout=layout, groups=5) for layout in ("tapped", "contiguous", "permuted")]
    first, *others = (outputs(case.problem(), compiled.region_norm) for case in layouts)
    for other in others:
        assert_same_bits(first, other, "layout")


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    codes=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, None]),
    layout=st.sampled_from(["tapped", "contiguous", "permuted"]),
    grids=st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True).map(tuple),
    groups=st.integers(1, 3),
    padded=st.booleans(),
)
def test_sweep(backend, shape, dtype, codes, layout, grids, groups, padded):
    number, size, height, width = shape
    shape = (number, groups * (size + 1), height, width)  # a group has more than one value
    problem = NormCase(shape, dtype, torch.float32, codes, layout, grids, groups, padded).problem()
    check_forward(problem, backend.region_norm, reference.region_norm)
    check_gradients(problem, backend.region_norm, reference.region_norm)
