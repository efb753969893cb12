"""Sets written member by member, as foreign tools write them."""

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Members = Iterable[tuple[str, bytes]]


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Members], None]:
    """write_tar(path, [(member, bytes), …])"""

    def write(path: Path, members: Members) -> None:
        with tarfile.open(path, "w") as archive:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))

    return write
