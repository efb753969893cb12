"""Facts of kdx/data/index/table.py: the layout is safetensors', and damage is noticed."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdx.data.index.table import DamagedTable, encode_table, map_table

ARRAYS = {
    "bytes": np.arange(5, dtype=np.uint8),
    "wide": np.array([1, 2**63], dtype=np.uint64),
    "none": np.empty(0, dtype=np.uint32),
    "pairs": np.arange(6, dtype=np.int32).reshape(3, 2) - 2,
    "short": np.array([7], dtype=np.uint16),
}
ABOUT = {"name": "ünder \ud800", "numbers": [1, 2], "nothing": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "table").write_bytes(encode_table(ARRAYS, ABOUT))
    return tmp_path / "table"


def test_what_is_written_is_mapped_and_cannot_be_changed(path: Path) -> None:
    table = map_table(path)
    assert table.about == ABOUT and table.arrays.keys() == ARRAYS.keys() and table.is_undamaged()
    for name, array in ARRAYS.items():
        mapped = table.arrays[name]
        assert mapped.dtype == array.dtype and np.array_equal(mapped, array)
        assert not mapped.flags.writeable and mapped.flags.aligned


def test_the_safetensors_library_reads_it_too(path: Path) -> None:
    read = load_file(path)
    assert read.keys() == ARRAYS.keys()
    assert all(np.array_equal(read[name], array) for name, array in ARRAYS.items())


def test_a_file_that_is_replaced_stays_as_it_was_for_who_mapped_it(path: Path) -> None:
    table = map_table(path)
    new = path.with_name("new")
    new.write_bytes(encode_table({"bytes": np.zeros(5, np.uint8)}, {}))
    new.replace(path)
    assert table.arrays["bytes"].tolist() == [0, 1, 2, 3, 4]


def test_every_cut_and_every_changed_bit_of_the_header_is_noticed_at_opening(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(DamagedTable):
            map_table(path)
    for place in range(len(whole[:header].rstrip())):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedTable):
            map_table(path)


def test_a_changed_bit_behind_the_header_is_noticed_when_it_is_looked_for(path: Path) -> None:
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(header, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not map_table(path).is_undamaged()
