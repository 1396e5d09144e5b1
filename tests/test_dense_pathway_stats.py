"""`dense_pathway` that gathers the statistics of its result: the bits of the two operations, on every backend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import FLOATS, LAYOUTS, SMALL, laid_out, normal
from checks import assert_same_bits, cotangents
from hypothesis import given
from hypothesis import strategies as st
from pathway_cases import FULL, PathwayCase, pathway_cases
from spies import Spy
from test_dense_pathway import drawn_cases

import zigzag
from zigzag import dispatch

CASES = [replace(case, statistics=((3, 5, 7), 1)) for case in pathway_cases()]
STATISTICS = [((3, 5, 7), 0), ((1,), 0), ((2,), 2), ((4, 9), 1)]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def check(case, backend):
    """Maps, statistics and gradients of one call, and of the two that it stands for."""
    problem = case.problem()
    found = []
    for statistics in (case.statistics, None):
        own = replace(case, statistics=statistics).problem()
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in own.tensors.items()}
        results = own.call(backend.dense_pathway, leaves)
        maps = results[: 1 + case.residual]
        known = results[len(maps) :] if statistics else ()
        sums, power = known or backend.region_stats(maps[0].detach(), *case.statistics, valid=problem.sizes["base"])
        assert not sums.requires_grad
        assert not power.requires_grad
        options = {"allow_unused": True, "materialize_grads": True}
        gradients = torch.autograd.grad(maps, list(leaves.values()), cotangents(maps), **options)
        found.append(([*maps, sums, power], gradients))
    assert_same_bits(found[0][0], found[1][0], "results")
    assert_same_bits(found[0][1], found[1][1], "gradients")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_two_operations(case, backend):
    check(case, backend)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("statistics", STATISTICS, ids=str)
def test_grids_and_halos(statistics, layout, backend):
    case = PathwayCase((2, 16, 40, 23), ((4, 3), (50, 30)), layout=layout, codes=(True, True), **FULL)
    check(replace(case, statistics=statistics), backend)
    check(replace(case, statistics=statistics, padded=True, dtype=torch.bfloat16), backend)


@given(case=drawn_cases(), statistics=st.sampled_from(STATISTICS))
def test_sweep(backend, case, statistics):
    check(replace(case, statistics=statistics), backend)


def test_a_map_too_wide_for_a_block(backend):
    check(PathwayCase((1, 4, 3, 2000), ((2, 900), (1, 7)), codes=(True, True), statistics=((3, 5, 7), 1)), backend)


@pytest.mark.parametrize("grads", [(True, False), (False, True)])
def test_a_gradient_of_one_map_alone(grads, backend):
    case = PathwayCase(SMALL, ((4, 3),), residual=True, statistics=((3,), 1))
    found = []
    for statistics in (case.statistics, None):
        problem = replace(case, statistics=statistics).problem()
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}
        maps = problem.call(backend.dense_pathway, leaves)[:2]
        read = [x for x, wanted in zip(maps, grads, strict=True) if wanted]
        found.append(torch.autograd.grad(read, [leaves["base"], leaves["source0"]], cotangents(read)))
    assert_same_bits(*found, "gradients")


class TestContext:
    """`region_context` of a map whose statistics are known."""

    @staticmethod
    def given(dtype=torch.float32, size=(11, 9)):
        generator = torch.Generator().manual_seed(4)
        x = laid_out(normal(generator, 2, 6, *size, dtype=dtype), "channels_last")
        return {"x": x, "weight": normal(generator, 6, dtype=dtype), "bias": normal(generator, 6, dtype=dtype)}

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_the_bits_of_one_that_takes_them(self, dtype, backend):
        found = []
        for known in (False, True):
            leaves = {name: tensor.requires_grad_() for name, tensor in self.given(dtype).items()}
            norm = (leaves["weight"], leaves["bias"], 2, 1e-5)
            statistics = backend.region_stats(leaves["x"].detach(), (1,), 0) if known else None
            x, _, affine = backend.region_context(leaves["x"], norm=norm, statistics=statistics)
            results = [x, *affine]
            found.append((results, torch.autograd.grad(results, list(leaves.values()), cotangents(results))))
        assert_same_bits(found[0][0], found[1][0], "results")
        assert_same_bits(found[0][1], found[1][1], "gradients")

    def test_a_map_of_few_pixels_is_summed_in_float64_all_the_same(self, backend):
        given = self.given(size=(3, 3))
        x, norm = 100 + given["x"] / 1000, (given["weight"], given["bias"], 2, 1e-5)
        affine = backend.region_context(x, norm=norm)[2]
        known = backend.region_context(x, norm=norm, statistics=backend.region_stats(x, (1,), 0))[2]
        assert_same_bits(known, affine, "scale and shift")

    def test_statistics_in_any_strides(self, backend):
        given = self.given()
        norm = (given["weight"], given["bias"], 2, 1e-5)
        sums, power = backend.region_stats(given["x"], (1,), 0)
        strided = sums.transpose(0, 2).contiguous().transpose(0, 2), power.t().contiguous().t()
        found = [backend.region_context(given["x"], norm=norm, statistics=s)[2] for s in ((sums, power), strided)]
        assert_same_bits(*found, "scale and shift")

    @pytest.mark.parametrize(
        ("sums", "power", "error", "message"),
        [
            (torch.zeros(2, 1, 6), None, TypeError, "statistics' power must be torch.float32, .* got NoneType"),
            (torch.zeros(2, 1, 6).double(), torch.zeros(2, 6), TypeError, "statistics' sums must be torch.float32"),
            (
                torch.zeros(2, 9, 6),
                torch.zeros(2, 6),
                ValueError,
                r"sums must have shape \(2, 1, 6\) on cpu, got \(2, 9",
            ),
            (torch.zeros(2, 1, 6), torch.zeros(6), ValueError, r"power must have shape \(2, 6\) on cpu, got \(6,"),
        ],
        ids=["no power", "sums in float64", "sums of other grids", "power of no batch"],
    )
    def test_statistics_that_are_none_of_x(self, sums, power, error, message):
        given = self.given()
        with pytest.raises(error, match=message):
            zigzag.ops.region_context(
                given["x"], norm=(given["weight"], given["bias"], 2, 1e-5), statistics=(sums, power)
            )


@pytest.mark.parametrize(
    ("statistics", "error", "message"),
    [
        (3, TypeError, r"statistics must be a pair \(grids, halo\), got 3"),
        (((3,),), TypeError, r"statistics must be a pair \(grids, halo\), got \(\(3,\),\)"),
        (((), 1), ValueError, r"statistics' grids must be one or more integers >= 1, got \(\)"),
        (((3.0,), 1), TypeError, "statistics' grids must be a sequence of integers"),
        (((3,), -1), ValueError, "statistics' halo must be >= 0, got -1"),
        (((3,), 1.0), TypeError, "statistics' halo must be an integer, got 1.0"),
    ],
)
def test_statistics_that_are_none(statistics, error, message):
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(error, match=message):
        zigzag.ops.dense_pathway(x, [], statistics=statistics)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, compiled):
    operation = compiled.bare("dense_pathway")

    def call(base, source):
        return operation(base, [source], statistics=((3,), 1))

    generator = torch.Generator().manual_seed(6)
    traced = compiled.around(torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager"))
    for size in ((9, 8), (12, 7)):
        given = [normal(generator, 2, 4, *size), normal(generator, 2, 4, 3, 5)]
        assert_same_bits(traced(*given), compiled.around(call)(*given), "compiled")


class TestNeck:
    """A neck whose maps are large enough, and one whose maps are not."""

    @staticmethod
    def passed(compiled, images=None):
        torch.manual_seed(2)
        neck = zigzag.nn.ZigZagNeck([4, 6, 8], 16, norm_groups=4).to(memory_format=torch.channels_last)
        neck.to(compiled.device)
        generator = torch.Generator().manual_seed(7)
        maps = [normal(generator, 2, c, *size) for c, size in ((4, (24, 20)), (6, (12, 10)), (8, (6, 5)))]
        with Spy() as spy:
            results = compiled.run(neck)(maps, image_sizes=images)
            gradients = torch.autograd.grad(results, list(neck.parameters()), cotangents(results))
        return (
            results,
            [gradient.cpu() for gradient in gradients],
            [operation.name().split("::")[1] for operation, *_ in spy.calls],
        )

    @pytest.mark.parametrize("images", [None, [(96, 80), (50, 61)]], ids=["whole", "padded"])
    def test_the_same_bits_with_fewer_passes(self, images, compiled, monkeypatch):
        expected = self.passed(compiled, images)
        monkeypatch.setattr(dispatch, "GATHER_FROM", 0)
        monkeypatch.setattr(dispatch, "GATHER_IMAGES", 0)
        found = self.passed(compiled, images)
        assert_same_bits(found[0], expected[0], "results")
        assert_same_bits(found[1], expected[1], "gradients")
        gathered = found[2].count("dense_pathway_stats")
        assert (gathered > 0) == (compiled.name in ("cuda", "hopper"))
        assert found[2].count("region_stats") + gathered == expected[2].count("region_stats")
        assert found[2].count("dense_pathway") + gathered == expected[2].count("dense_pathway")
