"""The data sets by name: where their files lie, their classes, and what their masks' values mean."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from zigzag.data.classes import CAMVID, CAMVID_COLOURS, CONTEXT, SHAPES, VOC, VOID, Colour, voc_colour
from zigzag.data.coco import CocoAsVoc
from zigzag.data.shapes import Shapes
from zigzag.data.source import DataError, MaskFiles, Pair, Source, root_folder

IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")


def open_source(dataset: str, root: str | None, split: str, classes: Sequence[str] = ()) -> Source:
    """A data set's part ``split``.

    Args:
        dataset: one of `DATASETS`.
        root: its folder; None for the one that is generated.
        split: name of the part, as its lists or folders are called.
        classes: names of a folder's classes.

    Raises:
        DataError: there is no such folder or list.
        ValueError: an unknown data set.
    """
    classes_of(dataset, classes)
    if dataset == "shapes":
        return Shapes(split)
    folder = root_folder(dataset, root)
    if dataset == "folder":
        return _folder(folder, split, classes)
    return _LAYOUTS[dataset](folder, split)


def classes_of(dataset: str, classes: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of a data set's classes, by label; no file is read.

    Args:
        dataset: one of `DATASETS`.
        classes: names of a folder's classes.

    Raises:
        DataError: names that cannot be a folder's classes, or of classes that the data set has itself.
        ValueError: an unknown data set.
    """
    if dataset not in DATASETS:
        raise ValueError(f"data.dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    if dataset == "folder":
        _check_names(classes)
    elif classes:
        raise DataError(f"data.class_names is for data.dataset 'folder', got {list(classes)} with {dataset!r}")
    colours = [voc_colour(label) for label in range(256)]
    names: dict[str, Sequence[str]] = {
        "shapes": SHAPES,
        "camvid": CAMVID,
        "context59": CONTEXT,
        "context60": ("background", *CONTEXT),
        "folder": classes,
    }
    own = tuple(names.get(dataset, VOC))
    start = first_value(dataset)
    return own, tuple(CAMVID_COLOURS if dataset == "camvid" else colours[start : start + len(own)])


def first_value(dataset: str) -> int:
    """The value of label 0 in a data set's masks; values below it are void."""
    return 1 if dataset == "context59" else 0


def _check_names(classes: Sequence[str]) -> None:
    """Find names that cannot be those of a folder's classes."""
    if not 2 <= len(classes) <= VOID:
        expected = f"of a folder, in the order of their labels: from 2 to {VOID} of them, {VOID} being void"
        raise DataError(f"data.class_names must name the classes {expected}; got {len(classes) or 'none'}")
    _check_differ("data.class_names", classes)


def _check_differ(what: str, names: Sequence[str]) -> None:
    """Find a name that stands twice."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{what} must differ from each other, got {twice[0]!r} twice")


def _voc(root: Path, split: str) -> Source:
    """VOC's layout; the augmented masks (Hariharan et al., 2011) where the list is "trainaug" or "train_aug".

    The truth of the part "test" is kept back: without any mask of it, there is none.
    """
    root = _within(root, "VOC2012")
    masks = root / ("SegmentationClassAug" if split.replace("_", "") == "trainaug" else "SegmentationClass")
    names = _names(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    kept_back = split == "test" and not any((masks / f"{name}.png").is_file() for name in names)
    pairs = [Pair(root / "JPEGImages" / f"{name}.jpg", None if kept_back else masks / f"{name}.png") for name in names]
    return MaskFiles(pairs, *classes_of("voc"))


def _context(root: Path, split: str, *, background: bool) -> Source:
    """PASCAL Context as PNGs, 0 for background and 1..59 for classes; 59 classes take the background for void."""
    root = _within(root, "VOC2010")
    names = _names(root / "ImageSets" / "SegmentationContext" / f"{split}.txt")
    pairs = [
        Pair(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClassContext" / f"{name}.png") for name in names
    ]
    dataset = "context60" if background else "context59"
    return MaskFiles(pairs, *classes_of(dataset), offset=first_value(dataset))


def _camvid(root: Path, split: str) -> Source:
    """SegNet's layout of CamVid: SPLIT.txt, SPLIT/ and SPLITannot/, 11 classes, 11 for void."""
    names = _names(root / f"{split}.txt")
    pairs = [Pair(_image(root / split, name), root / f"{split}annot" / f"{name}.png") for name in names]
    return MaskFiles(pairs, *classes_of("camvid"), void=(len(CAMVID), VOID))


def _coco(root: Path, split: str) -> Source:
    """COCO's own layout: annotations/instances_SPLIT.json and SPLIT/."""
    return CocoAsVoc(root / split, root / "annotations" / f"instances_{split}.json", *classes_of("coco"))


def _folder(root: Path, split: str, classes: Sequence[str]) -> Source:
    """images/SPLIT/NAME.jpg (or .png) beside masks/SPLIT/NAME.png, whose values are labels, 255 for void."""
    images, masks = root / "images" / split, root / "masks" / split
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"data.root: there is no folder {str(folder)!r}")
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    by_name: dict[str, Path] = {}
    for path in files:
        other = by_name.setdefault(path.stem, path)
        if other != path:
            raise DataError(f"{other} and {path.name}: both images would have the mask {path.stem}.png")
    stray = sorted({path.stem for path in masks.glob("*.png")} - by_name.keys())
    if stray:
        raise DataError(f"{masks / stray[0]}.png: there is no image of that name in {images}")
    return MaskFiles([Pair(path, masks / f"{path.stem}.png") for path in files], *classes_of("folder", classes))


_LAYOUTS: dict[str, Callable[[Path, str], Source]] = {
    "voc": _voc,
    "context59": lambda root, split: _context(root, split, background=False),
    "context60": lambda root, split: _context(root, split, background=True),
    "camvid": _camvid,
    "coco": _coco,
}
DATASETS = ("shapes", *_LAYOUTS, "folder")


def _within(root: Path, year: str) -> Path:
    """The folder of a year in the one that VOC's archives are unpacked in, as torchvision's data sets do."""
    inner = root / "VOCdevkit" / year
    return inner if inner.is_dir() else root


def _names(path: Path) -> list[str]:
    """Names in a list: the first word of every line, without folder and suffix."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such list")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise DataError(f"{path}: the list must be text in UTF-8: {error}") from error
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    _check_differ(f"{path}: names", names)
    return names


def _image(folder: Path, name: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])
