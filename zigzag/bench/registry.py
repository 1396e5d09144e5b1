"""The one registry of what is measured: every case, its variants, and the suites that pick from them.

``zigzag bench``, its gate, the pytest-benchmark suite in benchmarks/ and the GPU command read it. A subject is a case
in one variant; its key in one direction names a row, and is at the same time the ``--filter`` that measures it again:

    dense_pathway.level1 forward float32 channels_last K=3,5,7
    neck.fuse 3x3 forward+backward float32 channels_last K=3,5,7

``--size`` is the side of the crop whose pyramid the operations and the neck are measured on. The cases of a whole
network take crops of `model.SIZE` pixels, or of fewer where ``--size`` has fewer; their rows say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, product

import zigzag
from zigzag import dispatch
from zigzag.bench import model, neck, operations
from zigzag.bench.settings import DTYPES, Settings
from zigzag.bench.workload import (
    COMPILED,
    DIRECTIONS,
    EAGER,
    FUSED,
    LAYOUTS,
    OURS,
    Case,
    Direction,
    Grids,
    Layout,
    Variant,
    Workload,
    key,
)

GRIDS: tuple[Grids, ...] = ((3, 5, 7), (1,), (3,), (3, 5), (3, 5, 7, 9))
"""Region grids that are measured, the paper's first."""
CENTRE = Variant(3, "float32", "channels_last", GRIDS[0])
"""What holds where nothing else is said."""
_REFERENCE_PIXELS = 473**2
_MOST_COMPILING = 120.0
"""Seconds; what takes longer is compiled on request alone, and suite full keeps to its 25 minutes."""


@dataclass(frozen=True)
class Entry:
    """A case before it is built.

    Attributes:
        name: of the case.
        build: makes the case from a workload.
        kernels: sizes of the region kernel that it is measured with; () where the size plays no part.
        grids: that it is measured with; () where they play no part.
        layouts: of maps, or of the one thing it reads where it reads no map.
        directions: in which it is measured.
        half: those measured in float16, whose range the gradients of a whole network leave without loss scaling.
        stages: of the neck that its parameters come from.
        checking: seconds that building it and checking it against float64 takes, level 1 of a 473 crop, two cores.
        timing: seconds of its time budget, all directions.
        compiling: seconds that torch.compile of eager takes for them, nothing cached; 0 where there is no eager side.
    """

    name: str
    build: Callable[[Workload], Case]
    kernels: tuple[int, ...] = (3, 1)
    grids: tuple[Grids, ...] = GRIDS
    layouts: tuple[Layout, ...] = LAYOUTS
    directions: tuple[Direction, ...] = DIRECTIONS
    half: tuple[Direction, ...] = DIRECTIONS
    stages: int = 1
    checking: float = 0.3
    timing: float = 2.8
    compiling: float = 12.0

    def variants(self) -> Iterator[Variant]:
        """Every variant that there is, the centre first."""
        for dtype, layout, kernel, grids in product(DTYPES, self.layouts, self.kernels or (None,), self.grids or ((),)):
            yield Variant(kernel, dtype, layout, grids)


@dataclass(frozen=True)
class Subject:
    """A case in one variant: what is built, checked and timed at once.

    Attributes:
        entry: the case.
        variant: dtype, layout, grids and region kernel.
        directions: those to measure.
        compiled: mode of torch.compile for eager as one more side; None for none.
    """

    entry: Entry
    variant: Variant
    directions: tuple[Direction, ...]
    compiled: str | None = None

    @property
    def keys(self) -> list[str]:
        """The names of its rows' measures, by direction."""
        return [key(self.entry.name, direction, self.variant) for direction in self.directions]

    def build(self, work: Workload) -> Case:
        """The case, on a GPU with every fused backend that runs there as a side of its own; compiled where wanted."""
        case = self.entry.build(work)
        names = rivals(case.operation, work.device.type)
        own = {name: case.formulations[OURS].under(name) for name in names}
        if self.compiled is not None and EAGER in case.formulations:
            own[COMPILED] = case.formulations[EAGER].compiled(self.compiled)
        return replace(case, formulations={**case.formulations, **own})

    def seconds(self, size: int) -> float:
        """About how long it takes on two cores, for a crop of ``size`` pixels."""
        pixels = size**2 / _REFERENCE_PIXELS
        compiling = 0.0 if self.compiled is None else self.entry.compiling
        share = len(self.directions) / len(self.entry.directions)
        return self.entry.checking * pixels + (self.entry.timing + compiling) * share


def rivals(operation: str, device: str) -> list[str]:
    """The fused backends that are sides of their own: those that run on a GPU; a CPU has one, and it is ours."""
    if device != "cuda":
        return []
    backends = zigzag.backends()
    return [name for name in FUSED if backends[name].available and dispatch.has_kernel(operation, name)]


def _stats(level: int) -> Entry:
    build = partial(operations.region_stats, level=level - 1)
    return Entry(f"region_stats.level{level}", build, checking=12.0 / 4 ** (level - 1))


def _pathway(level: int, sources: Sequence[int]) -> Entry:
    build = partial(operations.dense_pathway, level=level - 1, sources=sources)
    return Entry(f"dense_pathway.level{level}", build, kernels=(), checking=2.0 / 4 ** (level - 1))


REGISTRY: tuple[Entry, ...] = (
    _stats(1),
    _stats(2),
    _stats(3),
    _stats(4),
    Entry("region_stats.norm.level1", partial(operations.norm_stats, level=0), kernels=(), grids=()),
    Entry("region_codes", operations.region_codes, layouts=("channels_last",), checking=2.0),
    Entry("region_norm", operations.region_norm, kernels=(), layouts=("channels_last",)),
    _pathway(1, (1, 2, 3)),
    _pathway(2, (2, 3)),
    _pathway(3, (0, 1)),
    _pathway(4, (0, 1, 2)),
    Entry(
        "dense_pathway.stats.level1",
        partial(operations.dense_pathway, level=0, sources=(1, 2, 3), statistics=True),
        kernels=(),
        layouts=("channels_last",),
        directions=("forward",),
        checking=2.0,
    ),
    Entry(
        "position_sensitive_pool.level3",
        partial(operations.position_sensitive_pool, level=2),
        kernels=(),
        grids=(),
        checking=20.0,
        timing=10.0,
        compiling=30.0,
    ),
    Entry("neck.fuse", neck.fuse, half=("forward",), stages=3, checking=22.0, timing=30.0, compiling=300.0),
    Entry("neck.stage", neck.stage, half=("forward",), checking=8.0, timing=12.0, compiling=140.0),
    Entry("neck.whole", neck.whole, directions=("forward",), stages=3, checking=11.0, timing=4.5, compiling=150.0),
    Entry("model.predict", model.predict, directions=("forward",), checking=10.0, timing=5.0, compiling=160.0),
    Entry(
        "model.segment",
        model.segment,
        layouts=("channels_last",),
        directions=("forward",),
        checking=70.0,
        timing=30.0,
        compiling=800.0,
    ),
    Entry(
        "model.step", model.step, directions=("forward+backward",), half=(), checking=12.0, timing=10.0, compiling=200.0
    ),
)

_FIRST = (
    *("region_stats.level1", "region_stats.norm.level1", "region_codes", "region_norm"),
    *("dense_pathway.level1", "dense_pathway.level4", "neck.fuse"),
)
_CI = (*_FIRST[:-1], "neck.stage")
_ON_REQUEST = ("model.segment",)
"""Cases of minutes that need the extra of training: by their name, and in suite all."""
_NETWORKS = ("neck", "model")
_LARGE = (*_NETWORKS, "position_sensitive_pool")
"""Cases whose stock versions take seconds: in few variants."""
_ALIKE = (
    *("region_stats.level2", "region_stats.level3", "region_stats.level4"),
    *("dense_pathway.level2", "dense_pathway.level3"),
)
"""Cases that torch.compile makes of what it makes of another level: suite full compiles that one."""


def _default(entry: Entry, variant: Variant) -> bool:
    """The operations on level 1 and the neck, both region kernels: what a first run shows in four minutes."""
    return entry.name in _FIRST and _at_centre(variant, free=("kernel",))


def _ci(entry: Entry, variant: Variant) -> bool:
    """What the gate compares with another commit: each operation and the neck, at the centre."""
    return entry.name in _CI and _at_centre(variant)


def _full(entry: Entry, variant: Variant) -> bool:
    """Every value of every axis, and with it all dtypes x layouts x levels, and all grids x region kernels.

    float16, in which stock PyTorch's convolutions take seconds on a CPU, is in one layout, and not for whole networks;
    the fusing of all levels is in one layout, too, one stage of it in both.
    """
    if entry.name in _ON_REQUEST:
        return False
    if variant.dtype == "float16" and (entry.name.startswith(_NETWORKS) or variant.layout != "channels_last"):
        return False
    if entry.name.startswith(_LARGE):
        fuses = entry.name == "neck.fuse"
        free = ("kernel",) if variant.kernel == 1 else ("dtype",) if fuses else ("dtype", "layout")
        return (fuses or variant.kernel != 1) and any(_at_centre(variant, free=(axis,)) for axis in free)
    first = entry.name in _FIRST
    return _at_centre(variant, free=("dtype", "layout")) or (first and _at_centre(variant, free=("kernel", "grids")))


def _all(_entry: Entry, _variant: Variant) -> bool:
    """The whole product of all axes."""
    return True


def _at_centre(variant: Variant, free: Sequence[str] = ()) -> bool:
    """Whether every axis but the ``free`` ones has the centre's value; an axis that plays no part always has."""
    axes = {axis: getattr(variant, axis) for axis in ("kernel", "dtype", "layout", "grids") if axis not in free}
    return all(value in (getattr(CENTRE, axis), None, ()) for axis, value in axes.items())


SUITES: dict[str, Callable[[Entry, Variant], bool]] = {"default": _default, "ci": _ci, "full": _full, "all": _all}
"""What each suite picks."""


def select(settings: Settings) -> list[Subject]:
    """The subjects of a run, those that share a workload together.

    The suite picks; ``--dtype`` puts another dtype in the place of float32; every word of ``--filter`` must be part of
    a case's name or be a word of the key; of words with ``|`` between them one is enough. What the suite does not have,
    the larger suites are searched for.
    """
    for suite in (settings.suite, "full", "all"):
        found = _narrowed(_subjects(SUITES[suite], settings), settings.only)
        if found:
            return found
    return []


def _subjects(suite: Callable[[Entry, Variant], bool], settings: Settings) -> list[Subject]:
    found = []
    for entry in REGISTRY:
        for variant in entry.variants():
            seen = variant if settings.dtype is None else replace(variant, dtype=CENTRE.dtype)
            fits = settings.dtype in (None, variant.dtype) and (variant.kernel or CENTRE.kernel) in settings.kernels
            if fits and suite(entry, seen):
                own = [way for way in entry.directions if variant.dtype != "float16" or way in entry.half]
                found.append(Subject(entry, variant, tuple(own), _compile_mode(settings, entry, seen)))
    order = list(dict.fromkeys(shared(subject.variant) for subject in found))
    return sorted(found, key=lambda subject: (order.index(shared(subject.variant)), subject.entry.stages))


def _compile_mode(settings: Settings, entry: Entry, variant: Variant) -> str | None:
    """The run's, or in suite full the default at the centre, for what compiles in less than some minutes, once."""
    within = settings.suite == "full" and _at_centre(variant) and 0 < entry.compiling <= _MOST_COMPILING
    within = within and entry.name not in _ALIKE
    return settings.compiled or ("default" if within else None)


def grouped(subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """Runs of subjects that one workload serves."""
    for _, group in groupby(subjects, key=lambda subject: (shared(subject.variant), subject.entry.stages)):
        yield list(group)


def shared(variant: Variant) -> Variant:
    """The variant of the workload that serves this one."""
    return replace(variant, kernel=variant.kernel or CENTRE.kernel, grids=variant.grids or CENTRE.grids)


def _narrowed(subjects: Sequence[Subject], words: str) -> list[Subject]:
    wanted = words.split()
    found = []
    for subject in subjects:
        directions = tuple(
            direction
            for direction in subject.directions
            if all(_matches(word, subject.entry.name, direction, subject.variant) for word in wanted)
        )
        if directions:
            found.append(replace(subject, directions=directions))
    return found


def _matches(word: str, name: str, direction: Direction, variant: Variant) -> bool:
    words = key(name, direction, variant).split()
    return any(each in name or each in words for each in word.split("|"))
