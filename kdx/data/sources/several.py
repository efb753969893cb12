"""Several sources of one kind one after the other, as CLIP-KD trains on CC3M and CC12M together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .source import LeaveOut, Row, Source


class Several:
    """An image is called by the number of its source and its name there."""

    classes: list[str] | None = None

    def __init__(self, sources: Sequence[Source]) -> None:
        self.place: Path = sources[0].place
        self._sources = sources

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        for number, source in enumerate(self._sources):
            for row in source.rows(leave_out):
                yield row._replace(image=f"{number}:{row.image}")

    def read(self, image: str) -> bytes:
        source, name = self._find(image)
        return source.read(name)

    def state(self, image: str) -> tuple[int, int] | None:
        source, name = self._find(image)
        return source.state(name)

    def name(self, image: str) -> str:
        source, name = self._find(image)
        return f"{source.place.name}: {source.name(name)}"

    def _find(self, image: str) -> tuple[Source, str]:
        number, _, name = image.partition(":")
        return self._sources[int(number)], name
