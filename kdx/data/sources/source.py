"""What `kdx data convert` reads from: rows that say something about an image, and the image's encoded bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """Something said about an image.

    image: where its bytes are, in the source's own words; rows with the same image speak of the same one. key: what
    the sample is to be called. split: as the source calls it, such as "validation", where it has splits of its own.
    """

    image: str
    key: str
    captions: tuple[str, ...] = ()
    label: str | None = None
    split: str | None = None


class Unusable(Exception):
    """Why an image gives no sample, in a few words."""


LeaveOut = Callable[[str, str], None]
"""Called with what is left out (an image, or a line of a file) and the reason."""


class Source(Protocol):
    """place: its folder or file, for messages. classes: names in label order, where the source itself has an order;
    then the labels of its rows are indices into them."""

    place: Path
    classes: list[str] | None

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        """All rows, in an order that stays. Raises DataError where the source cannot be read at all."""
        ...

    def read(self, image: str) -> bytes:
        """The encoded file of a row's image. Raises Unusable."""
        ...

    def state(self, image: str) -> tuple[int, int] | None:
        """Size and time of change of the file in which the image lies; None if it is not there."""
        ...

    def name(self, image: str) -> str:
        """What to call the image in messages."""
        ...
