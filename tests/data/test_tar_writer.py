"""Facts of kdx/data/tar_writer.py: its bytes are those of tarfile."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from kdx.core.errors import DataError
from kdx.data.tar_writer import TarWriter

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=8))
def test_the_bytes_are_those_of_tarfile(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    expected = io.BytesIO()
    try:
        with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    except ValueError:  # a name that no header holds
        with pytest.raises(DataError), TarWriter(path) as tar:
            for name, content in members:
                tar.add(name, content)
        return
    with TarWriter(path) as tar:
        for name, content in members:
            tar.add(name, content)
    assert path.read_bytes() == expected.getvalue()
    assert tar.digest == hashlib.sha256(expected.getvalue()).hexdigest() and tar.size == path.stat().st_size


def test_a_long_name_is_split_at_a_slash(tmp_path: Path) -> None:
    name = f"{'a' * 80}/{'b' * 80}.jpg"
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.add(name, b"x")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == [name]
