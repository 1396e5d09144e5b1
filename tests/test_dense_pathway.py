"""`dense_pathway` on every backend: the oracle's results, float64's gradients, images alone and in a padded batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from cases import FLOATS, LAYOUTS, SMALL, laid_out, own_part, shifted
from checks import assert_same_bits, check_forward, check_gradcheck, check_gradients, cotangents, outputs
from hypothesis import given
from hypothesis import strategies as st
from pathway_cases import FULL, PathwayCase, pathway_cases

from zigzag import reference

CASES = list(pathway_cases())
TINY = ((2, 2, 3, 4), ((2, 2), (5, 4)))

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case, backend):
    check_forward(case.problem(), backend.dense_pathway, reference.dense_pathway)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, backend):
    check_gradients(case.problem(), backend.dense_pathway, reference.dense_pathway)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("resize", ["linear", "nearest"])
@pytest.mark.parametrize("combine", ["product", "sum"])
def test_gradcheck(combine, resize, padded, backend):
    masks = {"padded": padded, "source_padded": (True, True) if padded else None}
    options = {"grids": (2,), "codes": (True, True), "affines": (True, True), "combine": combine, "resize": resize}
    case = PathwayCase(*TINY, torch.float64, **options, **FULL, **masks)
    check_gradcheck(case.problem(), backend.dense_pathway)


def test_gradient_of_a_product_with_zeros(backend):
    """The product's gradient never divides: zeros in one, in two and in all of the sources."""
    values = torch.tensor([[2.0, 0.0, 0.0, 0.0], [3.0, 5.0, 0.0, 0.0], [7.0, 11.0, 13.0, 0.0]])
    sources = [row.reshape(1, 1, 2, 2).clone().requires_grad_() for row in values]
    output = backend.dense_pathway(torch.zeros(1, 1, 2, 2), sources)
    gradients = torch.autograd.grad(output.sum(), sources)
    expected = [values[[1, 2]].prod(0), values[[0, 2]].prod(0), values[[0, 1]].prod(0)]
    assert [gradient.flatten().tolist() for gradient in gradients] == [row.tolist() for row in expected]


def test_no_sources_return_the_activated_base(backend):
    base = torch.tensor([-1.0, 2.0]).reshape(1, 1, 1, 2)
    assert backend.dense_pathway(base, []).flatten().tolist() == [-1, 2]
    assert backend.dense_pathway(base, [], base_relu=True).flatten().tolist() == [0, 2]


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_layout_of_the_base_is_kept(layout, backend):
    problem = PathwayCase(SMALL, ((4, 3),), layout=layout, residual=True).problem()
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for result in problem.call(backend.dense_pathway, problem.tensors):
        assert result.is_contiguous(memory_format=memory_format)


def test_layouts_may_be_mixed(backend):
    layouts = iter(LAYOUTS[:4] * 2)
    problem = PathwayCase(SMALL, ((4, 3), (11, 9)), **FULL).problem()
    mixed = {
        name: laid_out(tensor, next(layouts)) if tensor.ndim == 4 else tensor
        for name, tensor in problem.tensors.items()
    }
    results = (problem.call(backend.dense_pathway, tensors) for tensors in (problem.tensors, mixed))
    assert_same_bits(*results, "mixed layouts")


@pytest.mark.parametrize("table", ["codes0", "affine0.scale", "affine0.shift", "base_affine.shift", "gain"])
def test_tables_may_begin_at_any_element(table, backend):
    problem = PathwayCase(SMALL, ((4, 3),), codes=(True,), affines=(True,), **FULL).problem()
    problem = replace(problem, tensors=problem.tensors | {table: shifted(problem.tensors[table])})
    check_forward(problem, backend.dense_pathway, reference.dense_pathway)
    check_gradients(problem, backend.dense_pathway, reference.dense_pathway)


def sizes_alone(backend, problem, n):
    """Triton adds up taps in another order where no sizes are given: there an image alone is a padded batch of one."""
    if backend.name != "triton":
        return {}
    own = {name: None if sizes is None else sizes[n : n + 1] for name, sizes in problem.sizes.items()}
    return {"valid": own["base"], "source_valid": [sizes for name, sizes in own.items() if name.startswith("source")]}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("resize", ["linear", "nearest"])
def test_batch_mates_and_padding_change_nothing(dtype, resize, backend):
    options = {"codes": (True, True), "affines": (True, True), "resize": resize}
    masks = {"padded": True, "source_padded": (True, True)}
    case = PathwayCase((3, 20, 9, 7), ((5, 4), (12, 3)), dtype, **options, **masks, **FULL)
    problem = case.problem()
    together = outputs(problem, backend.dense_pathway)
    for n, (height, width) in enumerate(problem.sizes["base"].tolist()):
        alone = case.call(backend.dense_pathway, own_part(problem, n), **sizes_alone(backend, problem, n))
        assert_same_bits(alone, [result[n : n + 1, :, :height, :width] for result in together], f"image {n}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("resize", ["linear", "nearest"])
def test_batch_mates_and_padding_change_no_gradient(dtype, resize, compiled):
    """Images of one part and of several on a GPU, with sources finer and coarser than the target."""
    options = {"codes": (True, True), "affines": (True, True), "resize": resize}
    masks = {"padded": True, "source_padded": (True, True)}
    case = PathwayCase((4, 8, 90, 70), ((30, 33), (11, 71)), dtype, **options, **masks, **FULL)
    problem = case.problem()

    def gradients(call, tensors, weights):
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        results = call(compiled.dense_pathway, leaves)
        return dict(zip(leaves, torch.autograd.grad(results, list(leaves.values()), weights), strict=True))

    weights = cotangents(outputs(problem, compiled.dense_pathway))
    together = gradients(problem.call, problem.tensors, weights)
    for n, (height, width) in enumerate(problem.sizes["base"].tolist()):
        own = [weight[n : n + 1, :, :height, :width] for weight in weights]
        call = partial(case.call, **sizes_alone(compiled, problem, n))
        alone = gradients(call, own_part(problem, n), own)
        del alone["gain"]  # every image has a share of it
        for name, gradient in alone.items():
            cut = together[name][n : n + 1]
            if gradient.ndim == 4:
                cut = cut[:, :, : gradient.shape[2], : gradient.shape[3]]
            assert_same_bits([gradient], [cut], f"image {n}, {name}")


@pytest.mark.parametrize("summed", [False, True])
def test_large_results_are_those_of_small_ones(summed, backend):
    """Results too large for the caches are written past them; a source is averaged in height, stretched in width."""
    generator = torch.Generator().manual_seed(5)
    base, source = (torch.randn(16, 16, *size, generator=generator) for size in ((130, 131), (240, 31)))
    base, source = (x.to(memory_format=torch.channels_last) for x in (base, source))
    codes, affine = torch.randn(16, 9, 16, generator=generator), torch.randn(2, 16, 16, generator=generator).unbind()

    def compute(n):
        own = [part[n] for part in affine]
        options = {"base_affine": own, "base_relu": True, "source_affine": [own]}
        residual = base[n] if summed else None
        result = backend.dense_pathway(base[n], [source[n]], [codes[n]], (3,), residual=residual, **options)
        return result if summed else (result,)

    together = compute(slice(None))
    for n in (0, 7, 15):
        assert_same_bits([result[n : n + 1] for result in together], compute(slice(n, n + 1)), f"image {n}")


def test_many_sources(compiled):
    case = PathwayCase((1, 3, 5, 4), ((3, 2),) * 16, combine="sum")
    check_forward(case.problem(), compiled.dense_pathway, reference.dense_pathway)
    x = torch.zeros(1, 3, 5, 4)
    with pytest.raises(ValueError, match="sources must be at most 16 maps, got 17"):
        compiled.dense_pathway(x, [x] * 17)


sizes = st.tuples(st.integers(1, 16), st.integers(1, 16))


@st.composite
def drawn_cases(draw):
    sources = draw(st.lists(sizes, max_size=3).map(tuple))
    flags = st.none() | st.tuples(*(st.booleans() for _ in sources))
    return PathwayCase(
        (draw(st.integers(0, 3)), draw(st.integers(1, 24)), *draw(sizes)),
        sources,
        draw(st.sampled_from(FLOATS)),
        layout=draw(st.sampled_from(LAYOUTS[:4])),
        grids=draw(st.sampled_from([(3, 5, 7), (2, 4), (1,)])),
        codes=draw(flags),
        affines=draw(flags),
        base_affine=draw(st.booleans()),
        base_relu=draw(st.booleans()),
        gain=draw(st.booleans()),
        residual=draw(st.booleans()),
        combine=draw(st.sampled_from(["product", "sum"])),
        resize=draw(st.sampled_from(["linear", "nearest"])),
        padded=draw(st.booleans()),
        source_padded=draw(flags),
    )


@given(case=drawn_cases())
def test_sweep(backend, case):
    check_forward(case.problem(), backend.dense_pathway, reference.dense_pathway)
    check_gradients(case.problem(), backend.dense_pathway, reference.dense_pathway)
