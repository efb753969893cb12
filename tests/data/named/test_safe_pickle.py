from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdx.core.errors import DataError
from kdx.data.named.safe_pickle import StoredArray, read_pickle, read_torch_save

SAVED = {391895: ["a man", "ein Mann läuft"], 7: ['["as JSON"]']}


class Bomb:
    """Its pickle calls os.mkdir when it is read by pickle.load."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_save_wrote(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "test_captions.pt"
    torch.save(SAVED, path, _use_new_zipfile_serialization=zipped)
    assert read_torch_save(path) == SAVED == torch.load(path, weights_only=True)
    torch.save(OrderedDict(SAVED), path, _use_new_zipfile_serialization=zipped)
    assert dict(read_torch_save(path)) == SAVED


@pytest.mark.parametrize("zipped", [True, False])
def test_a_captions_file_that_would_run_something_is_refused(tmp_path: Path, zipped: bool) -> None:
    path, made = tmp_path / "test_captions.pt", tmp_path / "made"
    torch.save({1: Bomb(made)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"names (posix|os|nt)\.mkdir") as raised:
        read_torch_save(path)
    assert raised.value.where == str(path)
    assert not made.exists()


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    path, made = tmp_path / "test_batch", tmp_path / "made"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"data": Bomb(made)}, protocol))
        with pytest.raises(DataError, match="which no such file needs"):
            read_pickle(path)
    assert not made.exists()


def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    for pickled in (
        b"\x80\x02]r\xff\xff\xff\xff.",  # a table of 4 billion remembered things
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # a bytearray of a TiB
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"few bytes.",
    ):
        path.write_bytes(pickled)
        with pytest.raises(DataError, match="cannot be read as a pickle"):
            read_pickle(path)


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__"])
def test_no_builtin_can_be_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(b"cbuiltins\n" + name.encode() + b"\n(S'1'\ntR.")
    with pytest.raises(DataError, match=rf"names builtins\.{name}"):
        read_pickle(path)


def test_numpys_own_pickle_of_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    # protocols 3 and 4; 2 spells bytes of Python 3 by a call, which Python 2 did not need, and 5 keeps them elsewhere
    for protocol in (3, 4):
        path.write_bytes(pickle.dumps({"data": array}, protocol))
        stored = read_pickle(path)["data"]
        assert isinstance(stored, StoredArray)
        assert (stored.bytes_of(path) == array).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.float32),
        np.array([{}, []], dtype=object),
        np.asfortranarray(np.zeros((2, 3), np.uint8)),
    ],
    ids=["floats", "objects", "other order"],
)
def test_arrays_that_are_no_plain_bytes_are_refused(tmp_path: Path, array: Any) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(array, 4))
    with pytest.raises(DataError, match="not of plain bytes"):
        read_pickle(path).bytes_of(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00."])
def test_files_that_torch_did_not_write(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test_captions.pt"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_torch_save(path)
