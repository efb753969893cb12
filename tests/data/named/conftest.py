"""Published layouts, made of small pictures."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


@pytest.fixture
def write_folders(make_photo: Callable[..., bytes]) -> Callable[..., None]:
    """write_folders(place, names, each=1): so many pictures in a folder of each name."""
    picture = make_photo(0)

    def write(place: Path, names: Iterable[str], each: int = 1, suffix: str = "JPEG") -> None:
        for name in names:
            (place / name).mkdir(parents=True)
            for number in range(each):
                (place / name / f"{name}_{number:08d}.{suffix}").write_bytes(picture)

    return write


@pytest.fixture
def write_wds() -> Callable[..., None]:
    """write_wds(root, [shard, …], **texts): tars of (member, content), nshards.txt, and text files beside them."""

    def write(root: Path, shards: list[list[tuple[str, bytes]]], **texts: str) -> None:
        (root / "test").mkdir(parents=True)
        for number, members in enumerate(shards):
            with tarfile.open(root / "test" / f"{number}.tar", "w") as archive:
                for name, content in members:
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))
        (root / "test" / "nshards.txt").write_text(f"{len(shards)}\n")
        for name, text in texts.items():
            (root / f"{name}.txt").write_text(text, encoding="utf-8")

    return write
