"""The table of data sets by name, `sets.toml`, and the facts that it refers to."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from kdx.core.errors import UsageError
from kdx.core.spelling import nearest

FACTS = Path(__file__).parent / "facts"


class SetRecord(BaseModel):
    """What kdx knows of a data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    source: str = ""  # where it comes from
    # the published ones, of which the first that is there counts; every set may lie in clip-benchmark's layout instead
    layouts: tuple[str, ...] = ()
    places: tuple[str, ...] = (".",)  # folders under the root where a layout may begin
    # `facts/NAME.tsv`: a class's folder and its name a line, in label order; None where the set brings its own classes
    classes: str | None = None
    mask: str | None = None  # `facts/NAME.txt`: the folders of the classes that it has and is scored over
    folders: Literal["names", "numbers"] = (
        "names"  # whether a class's folder is called by its name or by its label
    )
    foreign: Literal["refused", "ignored"] = "refused"  # what becomes of folders that are none of its classes
    border: int = 0  # pixels that are cut from each side of an image
    annotations: tuple[
        str, ...
    ] = ()  # files under the root that name images and captions, of which the first counts
    photos: tuple[
        str, ...
    ] = ()  # where under the root an annotated image may lie, with {fields} of the layout
    captions: int | None = None  # how many of each image count, the first ones; None: all
    templates: str | None = None  # `facts/NAME-templates.txt`
    images: int | None = None  # how many the published set has


@functools.cache
def known_sets() -> dict[str, SetRecord]:
    """By name, in the order of the table."""
    text = Path(__file__).with_name("sets.toml").read_text(encoding="utf-8")
    return {name: SetRecord.model_validate(entry) for name, entry in tomllib.loads(text).items()}


def find_set(name: str) -> SetRecord:
    """Raises UsageError for an unknown name."""
    known = known_sets()
    if name not in known:
        meant = nearest(name, known)
        raise UsageError(
            f"there is no data set {name!r}" + (f"; is {meant} meant?" if meant else ""),
            remedy=f"the sets are {', '.join(known)}",
        )
    return known[name]


def class_folders(record: SetRecord) -> dict[str, str]:
    """Folder → class name in label order, of the classes that the set is scored over.

    Two classes may have one name, as ImageNet's "missile".
    """
    assert record.classes is not None
    pairs = [line.split("\t") for line in _lines(f"{record.classes}.tsv")]
    if record.mask is not None:
        kept = set(_lines(f"{record.mask}.txt"))
        pairs = [pair for pair in pairs if pair[0] in kept]
    if record.folders == "numbers":
        pairs = [[str(label), name] for label, (_, name) in enumerate(pairs)]
    return dict(pairs)


def prompts(record: SetRecord) -> list[str] | None:
    return None if record.templates is None else _lines(f"{record.templates}-templates.txt")


def _lines(name: str) -> list[str]:
    return (FACTS / name).read_text(encoding="utf-8").splitlines()
