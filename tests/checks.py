"""The checkers of the parity suite. Each is itself seen to fail on a planted fault in test_checks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import oracle
import torch

from zigzag import _library

# Our error may be at most this many times stock PyTorch's in the same dtype.
RATIO = 2
# Allowed however exact stock happens to be, in ulps of the result's magnitude, by the bytes of its dtype: a two-byte
# result is rounded once, to half an ulp; a float32 or float64 one is a sum of products in another order than stock's.
FLOOR_ULPS = {2: 1, 4: 4, 8: 4}
LABELS = {"largest": "largest", "relative": "relative L2"}
# Small gradients are compared for several cotangents, and signs of the inputs where those are free, at once: no single
# sum that happens to be exact is the measure.
DRAWS, ELEMENTS = 16, 1 << 20


@dataclass(frozen=True)
class Error:
    """Largest absolute and relative L2 error of a result, and the largest magnitude of what it should be."""

    largest: float
    relative: float
    magnitude: float


def to_real(tensor, real=oracle.real):
    if isinstance(tensor, torch.Tensor):
        return real(tensor.detach().to("cpu", torch.float64).numpy())
    return real(tensor)


def error_of(result, exact):
    """In the oracle's precision; in float64 against a result of PyTorch's, which has no more."""
    real = np.asarray if isinstance(exact, torch.Tensor) else oracle.real
    result, exact = to_real(result, real), to_real(exact, real)
    difference = np.abs(result - exact)
    scale = np.sqrt((exact**2).sum())
    relative = np.sqrt((difference**2).sum()) / scale if scale > 0 else difference.max(initial=0)
    return Error(float(difference.max(initial=0)), float(relative), float(np.abs(exact).max(initial=0)))


def assert_sane(result, exact, what, dtype=None):
    """Half of the digits of `dtype` are right (the result's, if None): a wrong formula never passes, rounding does.

    Returns the Error.
    """
    result_shape, exact_shape = tuple(result.shape), tuple(exact.shape)
    assert result_shape == exact_shape, f"{what}: shape {result_shape}, expected {exact_shape}"
    assert bool(torch.isfinite(result).all()), f"{what}: not finite (an element that was never written?)"
    bound = torch.finfo(dtype or result.dtype).eps ** 0.5
    error = error_of(result, exact)
    assert error.relative <= bound, f"{what}: relative L2 error {error.relative:.3g} against {bound:.3g}"
    return error


def assert_within(result, exact, allowed, what, measures=tuple(LABELS)):
    """`result` errs at most RATIO times as much as `allowed` (an Error), in the largest error and in L2."""
    ours = assert_sane(result, exact, what, torch.bfloat16)
    floor = FLOOR_ULPS[result.dtype.itemsize] * torch.finfo(result.dtype).eps
    floors = {"largest": floor * ours.magnitude, "relative": floor}
    for measure in measures:
        error, bound = getattr(ours, measure), max(RATIO * getattr(allowed, measure), floors[measure])
        assert error <= bound, f"{what}: {LABELS[measure]} error {error:.3g}, allowed {bound:.3g}"


def assert_parity(result, stock, exact, what, dtype=None, **options):
    """`result` has stock's dtype and errs at most RATIO times as much as stock, which is sane for `dtype`."""
    assert result.dtype == stock.dtype, f"{what}: {result.dtype}, expected {stock.dtype}"
    allowed = assert_sane(stock, exact, f"{what} (stock)", dtype)
    assert_within(result, exact, allowed, what, **options)


def outside(valid, height, width):
    """(N, 1, H, W), True where a pixel is not the image's."""
    rows = torch.arange(height)[None, :, None] >= valid[:, 0, None, None]
    columns = torch.arange(width)[None, None, :] >= valid[:, 1, None, None]
    return (rows | columns)[:, None]


def assert_zero_outside(result, valid, what):
    if valid is not None:
        garbage = result.masked_select(outside(valid, *result.shape[2:]))
        assert not garbage.any(), f"{what}: not 0 outside the images"


def assert_same_bits(first, second, what):
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(one, other), f"{what}: result {index} differs by {(one - other).abs().max():.3g}"


# --- one problem, solved by two implementations -----------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What to call and with which differentiable tensors; an implementation is the operation as a function.

    `sizes` holds, by the name of a map, the sizes of the images in it; results that are maps have those of "base".
    `narrow` is the dtype with the fewest digits that stock may compute in, unless it is the narrowest of the tensors'.
    `symmetric`: the tensors with other signs are as good a problem.
    """

    call: Callable[[Any, dict[str, torch.Tensor]], tuple[torch.Tensor, ...]]
    exact: Callable[[], tuple[np.ndarray, ...]]
    names: tuple[str, ...]
    tensors: dict[str, torch.Tensor]
    sizes: dict[str, torch.Tensor | None] = field(default_factory=dict)
    narrow: torch.dtype | None = None
    symmetric: bool = False


def outputs(problem, implementation, tensors=None):
    return problem.call(implementation, problem.tensors if tensors is None else tensors)


def cotangents(results, draw=0):
    """One random cotangent per result, in its dtype, the same for every implementation; every other in its layout."""
    generator = torch.Generator().manual_seed(7 + draw)
    found = [torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result.dtype) for result in results]
    if draw % 2 == 0:
        found = [torch.empty_like(result).copy_(own) for result, own in zip(results, found, strict=True)]
    return found


def inputs(problem, dtype, draw):
    """The tensors, in `dtype` if not None; every draw but the first with signs of its own where they are free."""
    generator = torch.Generator().manual_seed(11 + draw)
    tensors = {}
    for name, tensor in problem.tensors.items():
        tensor = tensor.detach() if dtype is None else tensor.detach().to(dtype)
        if problem.symmetric and draw > 0:
            tensor = tensor * (1 - 2 * torch.randint(2, tensor.shape, generator=generator))
        tensors[name] = tensor.requires_grad_()
    return tensors


def solved(problem, implementation, dtype=None, draws=None):
    """(results, gradients by name, cotangents): each gradient one for every draw of cotangents, stacked.

    `dtype` converts the inputs first; `draws` is how many, DRAWS if None, or the cotangents that another
    implementation was given.
    """
    draws = DRAWS if draws is None else draws
    tensors = inputs(problem, dtype, 0)
    first = results = problem.call(implementation, tensors)
    if isinstance(draws, int):
        elements = 1 + sum(tensor.numel() for tensor in tensors.values())
        draws = [cotangents(results, draw) for draw in range(min(draws, 1 + ELEMENTS // elements))]
    found = []
    for draw, weights in enumerate(draws):
        if problem.symmetric and draw > 0:
            tensors = inputs(problem, dtype, draw)
            results = problem.call(implementation, tensors)
        weights = [weight.to(result.dtype) for weight, result in zip(weights, results, strict=True)]
        options = {
            "allow_unused": True,
            "materialize_grads": True,
            "retain_graph": not problem.symmetric and draw + 1 < len(draws),
        }
        pairs = zip(results, weights, strict=True)
        read, weights = zip(*((result, weight) for result, weight in pairs if result.requires_grad), strict=True)
        found.append(torch.autograd.grad(read, list(tensors.values()), weights, **options))
    gradients = {name: torch.stack(drawn) for name, drawn in zip(tensors, zip(*found, strict=True), strict=True)}
    return [result.detach() for result in first], gradients, draws


def narrowest(problem):
    return problem.narrow or max(
        (tensor.dtype for tensor in problem.tensors.values()), key=lambda dtype: torch.finfo(dtype).eps
    )


def check_forward(problem, implementation, stock):
    """Every result of `implementation` against the oracle, measured by `stock`."""
    exact = problem.exact()
    ours, stocks = outputs(problem, implementation), outputs(problem, stock)
    assert len(ours) == len(stocks) == len(exact)
    for name, result, by_stock, truth in zip(problem.names, ours, stocks, exact, strict=True):
        assert_parity(result, by_stock, truth, name, narrowest(problem))
        assert_zero_outside(result, problem.sizes.get("base"), name)


def pooled(gradients, exact, like):
    """Gradients of one dtype (in `like`) as one vector, brought to size 1 by powers of two: none is rounded."""
    groups = {}
    for name, truth in exact.items():
        scale = 2.0 ** -torch.frexp(truth.square().mean().sqrt())[1].item() if truth.numel() else 1
        groups.setdefault(like[name].dtype, []).append((gradients[name] * scale).flatten())
    return {str(dtype): torch.cat(vectors) for dtype, vectors in groups.items()}


def check_gradients(problem, implementation, stock, *, each=True):
    """The gradients of `implementation` against stock's in float64 from the same inputs, measured by `stock`.

    All together, and with `each` every one in L2: the largest error of a tensor whose elements are few, or share their
    rounding, is luck, as it is for every small tensor of a network.
    Sanitizers look at accesses, which two draws show, one for either layout of cotangents: digits are what other
    builds show.
    """
    sanitized = bool(_library.build_info().get("sanitize"))
    _, ours, draws = solved(problem, implementation, draws=2 if sanitized else None)
    for name, gradient in ours.items():
        assert gradient.dtype == problem.tensors[name].dtype, f"gradient of {name}: {gradient.dtype}"
        for drawn in gradient:
            assert_zero_outside(drawn, problem.sizes.get(name), f"gradient of {name}")
        if sanitized:
            assert bool(torch.isfinite(gradient).all()), f"gradient of {name}: not finite"
    if sanitized:
        return
    _, stocks, _ = solved(problem, stock, draws=draws)
    _, exact, _ = solved(problem, stock, torch.float64, draws)
    if narrowest(problem) == torch.float64:
        check_wide_gradients(problem, stock, ours, exact, draws, each=each)
        return
    for name in ours if each else ():
        measures = {"dtype": narrowest(problem), "measures": ("relative",)}
        assert_parity(ours[name], stocks[name], exact[name], f"gradient of {name}", **measures)
    together = [pooled(gradients, exact, ours) for gradients in (ours, stocks, exact)]
    for dtype in together[0]:
        assert_parity(*(found[dtype] for found in together), f"gradients, {dtype}", narrowest(problem))


def check_wide_gradients(problem, stock, ours, exact, draws, *, each):
    """float64 has no wider stock to be measured by: stock's error in float32, in units of its eps, is the measure.

    `exact` is stock's float64 result and errs once itself.
    """
    rounded = replace(problem, tensors={name: tensor.detach().float() for name, tensor in problem.tensors.items()})
    draws = [[weight.float() for weight in weights] for weights in draws]
    _, narrow, _ = solved(rounded, stock, draws=draws)
    _, truth, _ = solved(rounded, stock, torch.float64, draws)
    for name in ours if each else ():
        allowed = shrunk(error_of(narrow[name], truth[name]))
        assert_within(ours[name], exact[name], allowed, f"gradient of {name}", measures=("relative",))
    narrow, truth = (pooled(gradients, truth, truth) for gradients in (narrow, truth))
    ours, exact = (pooled(gradients, exact, exact) for gradients in (ours, exact))
    for dtype, gradient in ours.items():
        assert_within(gradient, exact[dtype], shrunk(error_of(narrow[dtype], truth[dtype])), "gradients")


def shrunk(error):
    """What a float32 error is in float64, measured against a result that itself errs as much as one RATIO-th of it."""
    shrink = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps * (RATIO + 1) / RATIO
    return Error(error.largest * shrink, error.relative * shrink, error.magnitude)


def check_gradcheck(problem, implementation):
    """Gradients against finite differences, float64."""
    assert torch.autograd.gradcheck(*as_function(problem, implementation), fast_mode=True)


def check_gradgradcheck(problem, implementation):
    """Second derivatives against finite differences of the first, float64."""
    assert torch.autograd.gradgradcheck(*as_function(problem, implementation), fast_mode=True)


def as_function(problem, implementation):
    """(function of the tensors alone, the tensors)."""
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in problem.tensors.items()}

    def call(*given):
        return tuple(problem.call(implementation, dict(zip(tensors, given, strict=True))))

    return call, tuple(tensors.values())
