"""ImageNet's validation photos in one folder, as ILSVRC2012_img_val.tar unpacks, and where their classes stand.

    ILSVRC2012_val_00000001.JPEG …        in the root, in val/ or in ILSVRC/Data/CLS-LOC/val/

with one of, first found first read:
    LOC_val_solution.csv                  of Kaggle: `ImageId,PredictionString`, "ILSVRC2012_val_00000001,n01751748 …"
    ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt with meta.mat: the devkit's own class number a
                                          line, image by image, and what the numbers mean
    val.txt                               of Caffe: "ILSVRC2012_val_00000001.JPEG 65", labels in the order of synsets
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError, beginning
from kdx.data.sample import is_index
from kdx.data.sources.csv_rows import OpenQuote, read_rows

from .class_folders import image_files
from .image_list import Entry, Listing, PlainFile
from .table import SetRecord, class_folders
from .text_files import read_lines, read_text

PREFIX = "ILSVRC2012_val_"
KAGGLE = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12/data"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
CAFFE = "val.txt"


def read_imagenet_flat(record: SetRecord, root: Path) -> Listing | None:
    """None where no place at the root holds such photos.

    A photo whose class does not stand anywhere, and a class of a photo that is absent, are skipped.
    """
    folders = class_folders(record)
    for place in (root / place for place in record.places):
        photos = {Path(file.name).stem: file.path for file in _photos(place)}
        if photos:
            break
    else:
        return None
    classes = _classes(root, place, list(folders))
    labels = {synset: label for label, synset in enumerate(folders)}
    skipped = [(name, "its class stands nowhere") for name in photos.keys() - classes.keys()]
    skipped += [(name, "the image is absent") for name in classes.keys() - photos.keys()]
    entries: list[Entry] = []
    for name, path in photos.items():
        if name in classes and classes[name] in labels:
            entries.append(Entry(name, PlainFile(path), labels[classes[name]]))
        elif name in classes:
            skipped.append((name, f"its class {classes[name]!r} is none of the set"))
    return Listing(entries, sorted(skipped), list(folders.values()))


def expected_flat(record: SetRecord) -> str:
    places = [f"{PREFIX}00000001.JPEG" if p == "." else f"{p}/{PREFIX}00000001.JPEG" for p in record.places]
    return " or ".join(places)


def _photos(place: Path) -> list[Any]:
    if not place.is_dir():
        return []
    return [file for file in image_files(place) if file.name.startswith(PREFIX)]


def _classes(root: Path, place: Path, synsets: list[str]) -> dict[str, str]:
    """Photo → synset."""
    if (path := _find(KAGGLE, root, place)) is not None:
        return _from_kaggle(path)
    if (path := _find(GROUND_TRUTH, root / DEVKIT, root / "data", root, place)) is not None:
        return _from_devkit(path)
    if (path := _find(CAFFE, root, place)) is not None:
        return _from_caffe(path, synsets)
    raise DataError(
        "the photos lie in one folder, and nothing says what they show",
        where=place,
        remedy=f"unpack ILSVRC2012_devkit_t12.tar.gz at --root, or put Kaggle's {KAGGLE} there",
    )


def _find(name: str, *folders: Path) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _from_kaggle(path: Path) -> dict[str, str]:
    try:
        rows = [fields for _, fields in read_rows(io.StringIO(read_text(path)), ",") if fields]
    except OpenQuote as error:
        raise DataError(str(error), where=path, remedy="copy it again") from None
    if not rows or rows[0] != ["ImageId", "PredictionString"]:
        raise DataError(
            f"its columns are {beginning(', '.join(rows[0])) if rows else 'missing'}, not ImageId, PredictionString",
            where=path,
            remedy="copy it again",
        )
    return {row[0]: row[1].split(" ")[0] for row in rows[1:] if len(row) == 2}


def _from_devkit(path: Path) -> dict[str, str]:
    synsets = _meaning(path.with_name("meta.mat"))
    classes: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        if line not in synsets:
            raise DataError(
                f"line {number:,} is {line[:20]!r}, and no class of meta.mat has this number",
                where=path,
                remedy="unpack the devkit again",
            )
        classes[f"{PREFIX}{number:08d}"] = synsets[line]
    return classes


def _meaning(path: Path) -> dict[str, str]:
    """The devkit's class number → synset, from meta.mat, a MATLAB file."""
    from scipy.io import loadmat  # not at start: it takes a second

    remedy = "unpack the whole devkit; its class numbers are not the labels"
    if not path.is_file():
        raise DataError("is missing beside the ground truth", where=path, remedy=remedy)
    try:
        rows = loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in rows}
    except Exception as error:  # SciPy's reader raises nearly everything for a damaged file
        raise DataError(f"cannot be read: {error}", where=path, remedy=remedy) from None


def _from_caffe(path: Path, synsets: list[str]) -> dict[str, str]:
    classes: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        name, _, label = line.rpartition(" ")
        if not is_index(label) or int(label) >= len(synsets):
            raise DataError(
                f"line {number:,} is {line[:60]!r}, not a photo and a label of 0 to {len(synsets) - 1}",
                where=path,
                remedy="copy it again",
            )
        classes[Path(name).stem] = synsets[int(label)]
    return classes
