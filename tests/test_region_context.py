"""`region_context`: the three operations it stands for, bit for bit, forward and backward, on every backend."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from cases import FLOATS, branch_tensors, branches_of, laid_out, normal, poisoned, random_valid
from checks import assert_parity, assert_same_bits, assert_within, cotangents, error_of
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from zigzag.ops.arguments import accumulation_dtype

pytestmark = pytest.mark.usefixtures("poisoned_memory")

GRIDS = (3, 2)
SIZES = {"many": (11, 9), "few": (5, 4)}


@dataclass(frozen=True)
class Case:
    size: tuple[int, int] = SIZES["many"]
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype | None = None
    layout: str = "channels_last"
    kernel_size: int = 3
    coded: bool = True
    normed: bool = True
    pool: str = "mean"
    padded: bool = False

    def tensors(self):
        generator = torch.Generator().manual_seed(8)
        valid = random_valid(generator, 3, *self.size) if self.padded else None
        x = laid_out(poisoned(normal(generator, 3, 6, *self.size, dtype=self.dtype), valid), self.layout)
        weight_dtype = self.weight_dtype or self.dtype
        weight, bias = normal(generator, 2, 6, dtype=weight_dtype)
        tensors = {"x": x, "weight": weight, "bias": bias}
        tensors |= branch_tensors(generator, 6, GRIDS, self.kernel_size, weight_dtype)
        return {name: tensor.requires_grad_() for name, tensor in tensors.items()}, valid

    def arguments(self, given):
        branches = branches_of(given, GRIDS) if self.coded else None
        return branches, (given["weight"], given["bias"], 2, 1e-5) if self.normed else None

    def at_once(self, backend, given, valid):
        branches, norm = self.arguments(given)
        _, codes, affine = backend.region_context(given["x"], branches, GRIDS, pool=self.pool, norm=norm, valid=valid)
        assert (codes is None, affine is None) == (not self.coded, not self.normed)
        return [result for result in (codes, *(affine or ())) if result is not None]

    def one_by_one(self, backend, given, valid):
        branches, norm = self.arguments(given)
        x = given["x"].double() if self.size == SIZES["few"] else given["x"]
        grids, halo = (GRIDS, self.kernel_size // 2) if self.coded else ((1,), 0)
        where = {"height": self.size[0], "width": self.size[1], "valid": valid}
        sums, power = backend.region_stats(x, grids, halo, valid=valid)
        results, codes = [], None
        if self.coded:
            given_sums = sums.to(accumulation_dtype(self.dtype))
            codes = backend.region_codes(given_sums, branches, grids, pool=self.pool, **where)
            results.append(codes)
        if self.normed:
            weight, bias, groups, eps = norm
            taps = (2 * halo + 1) ** 2
            folded = {"weight": weight, "bias": bias, "groups": groups, "eps": eps, **where}
            results += backend.region_norm(sums[:, taps // 2 :: taps], power, codes, grids, **folded)
        return results


def check(case, backend):
    """Results, and gradients of all tensors that there is a gradient of."""
    found = []
    for way in (case.at_once, case.one_by_one):
        tensors, valid = case.tensors()
        results = way(backend, tensors, valid)
        gradients = torch.autograd.grad(results, list(tensors.values()), cotangents(results), allow_unused=True)
        found.append((results, [gradient for gradient in gradients if gradient is not None]))
        if way == case.at_once:
            with torch.no_grad():
                assert_same_bits(way(backend, tensors, valid), results, "without gradients")
    assert_same_bits(found[0][0], found[1][0], "results")
    assert_same_bits(found[0][1], found[1][1], "gradients")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("coded", "normed"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_it_is_the_three_operations(dtype, size, coded, normed, padded, backend):
    check(Case(SIZES[size], dtype, coded=coded, normed=normed, padded=padded), backend)


@given(
    dtypes=st.sampled_from([(torch.bfloat16, torch.float32), (torch.float32, torch.float16), (torch.float16, None)]),
    layout=st.sampled_from(["channels_last", "contiguous", "sliced", "permuted"]),
    kernel_size=st.sampled_from([1, 3]),
    pool=st.sampled_from(["sum", "mean"]),
    size=st.sampled_from(sorted(SIZES.values())),
)
def test_sweep(backend, dtypes, layout, kernel_size, pool, size):
    check(Case(size, *dtypes, layout, kernel_size, pool=pool), backend)


@pytest.mark.parametrize("frozen", ["x", "all but x"])
def test_only_what_asks_for_a_gradient_gets_one(frozen, backend):
    case = Case()
    tensors, valid = case.tensors()
    for name, tensor in tensors.items():
        tensor.requires_grad_((name == "x") != (frozen == "x"))
    torch.stack([result.sum() for result in case.at_once(backend, tensors, valid)]).sum().backward()
    assert all((tensor.grad is not None) == tensor.requires_grad for tensor in tensors.values())


def normalised(backend, x, weight, bias):
    """A GroupNorm of two groups, as the neck has it: folded, and applied where the map is read."""
    x, _, affine = backend.region_context(x, norm=(weight, bias, 2, 1e-5))
    return backend.dense_pathway(x, [], base_affine=affine)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1), (torch.bfloat16, 1), (torch.float16, 1), (torch.float16, 2.0**-18)],
    ids=["float32", "bfloat16", "float16", "float16, hardly normal"],
)
def test_the_mean_that_a_norm_takes_from_a_gradient_is_not_lost(dtype, scale, compiled):
    """Summed over pixels, as for a convolution before the norm, where it is as large as what it is taken from."""
    generator = torch.Generator().manual_seed(3)
    x = laid_out(normal(generator, 2, 8, 60, 50, dtype=dtype), "channels_last")
    weight, bias = (normal(generator, 8, dtype=dtype) for _ in range(2))
    cotangent = (normal(generator, *x.shape) * scale).to(dtype)
    ways = {
        "ours": lambda *given: normalised(compiled, *given),
        "stock": lambda *given: torch.nn.functional.group_norm(given[0], 2, *given[1:], 1e-5),
    }
    found = {}
    for name, way in ways.items():
        for kind in (dtype, torch.float64):
            given = [tensor.to(kind).requires_grad_() for tensor in (x, weight, bias)]
            (found[name, kind],) = torch.autograd.grad(way(*given), given[0], cotangent.to(kind))
    exact = found["stock", torch.float64]
    # Of values that are hardly normal the largest error is a matter of steps, one or two of them.
    measures = ("largest", "relative") if scale == 1 else ("relative",)
    assert_parity(found["ours", dtype], found["stock", dtype], exact, "gradient", measures=measures)
    ours, stock, exact = (each.double().sum((2, 3)) for each in (found["ours", dtype], found["stock", dtype], exact))
    assert_within(ours, exact, error_of(stock, exact), "its sums", measures=("relative",))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_others_give_comes_through_as_it_is(dtype, layout, padded, compiled):
    case = Case(dtype=dtype, layout=layout, padded=padded)
    tensors, valid = case.tensors()
    branches, norm = case.arguments(tensors)
    x, codes, affine = compiled.region_context(tensors["x"], branches, GRIDS, norm=norm, valid=valid)
    given = laid_out(normal(torch.Generator().manual_seed(9), *x.shape, dtype=dtype), layout)
    nothing = [torch.zeros_like(result) for result in (codes, *affine)]
    (gradient,) = torch.autograd.grad([x, codes, *affine], tensors["x"], [given, *nothing])
    assert_same_bits([gradient], [given], "gradient")


@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck_with_other_readers(padded, compiled):
    case = Case((9, 8), torch.float64, padded=padded)
    tensors, valid = case.tensors()
    tensors = {name: tensor.detach().nan_to_num(0, 0, 0).requires_grad_() for name, tensor in tensors.items()}

    def call(x):
        branches, norm = case.arguments(tensors)
        x, codes, affine = compiled.region_context(x, branches, GRIDS, pool="mean", norm=norm, valid=valid)
        return x.square(), codes, *affine

    assert torch.autograd.gradcheck(call, tensors["x"], fast_mode=True)


def test_a_map_that_alone_is_read_leaves_the_parameters_without_a_gradient(backend):
    case = Case()
    tensors, valid = case.tensors()
    x, *_ = backend.region_context(tensors["x"], *case.arguments(tensors)[:1], GRIDS, valid=valid)
    others = [tensor for name, tensor in tensors.items() if name != "x"]
    gradient, *nothing = torch.autograd.grad(x, [tensors["x"], *others], torch.ones_like(x), allow_unused=True)
    assert_same_bits([gradient], [torch.ones_like(x)], "gradient")
    assert nothing == [None] * len(others)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant, compiled):
    found = []
    for again in (False, True):
        generator = torch.Generator().manual_seed(3)
        given = [normal(generator, *shape).requires_grad_() for shape in ((2, 6, 11, 9), (6,), (6,))]
        call = functools.partial(normalised, compiled)
        result = checkpoint(call, *given, use_reentrant=reentrant) if again else call(*given)
        found.append(torch.autograd.grad(result.square().sum(), given) if not reentrant else by_backward(result, given))
    assert_same_bits(*found, "gradients")


def by_backward(result, given):
    """The gradients by what reentrant checkpointing allows."""
    result.square().sum().backward()
    return [tensor.grad for tensor in given]


def test_nothing_to_compute(backend):
    x = torch.zeros(1, 2, 3, 4)
    found, *nothing = backend.region_context(x)
    assert found is x
    assert nothing == [None, None]


def test_backward_twice_over_one_graph(compiled):
    case = Case()
    tensors, valid = case.tensors()
    results = case.at_once(compiled, tensors, valid)
    first, second = (
        torch.autograd.grad(results, list(tensors.values()), cotangents(results), retain_graph=True) for _ in range(2)
    )
    assert_same_bits(first, second, "gradients")


def test_the_second_derivative_is_an_error(compiled):
    case = Case()
    tensors, valid = case.tensors()
    results = case.at_once(compiled, tensors, valid)
    (gradient,) = torch.autograd.grad(results[0].sum(), tensors["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.sum().backward()
