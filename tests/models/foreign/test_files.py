"""Facts of kdx/models/foreign/files.py: what is read, and that nothing is run."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from kdx.core.errors import DataError
from kdx.models.foreign.files import read_state_dict, read_weights

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}


class Executes:
    """Creates a file when it is unpickled by a reader that trusts it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def _same(state: dict[str, Any]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict and others", "bare"])
def test_torch_files_are_read_whatever_their_name(tmp_path: Path, zipped: bool, wrapped: bool) -> None:
    path = tmp_path / "weights.bin"
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    content = {
        "epoch": 32,
        "name": "x",
        "state_dict": STATE,
        "optimizer": optimizer,
        "scaler": {"scale": 1.0},
    }
    torch.save(content if wrapped else STATE, path, _use_new_zipfile_serialization=zipped)
    assert _same(read_state_dict(path))


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "weights.pt")
    assert _same(read_state_dict(tmp_path / "weights.pt"))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle 2", "pickle 4", "beside good weights"])
def test_a_pickle_with_code_is_refused_and_its_code_not_run(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch's switch for trusting everything
    trace, path = tmp_path / "trace", tmp_path / "weights.pt"
    bomb = Executes(trace)
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(bomb, protocol=int(how[-1])))
    else:
        content = {"state_dict": STATE, "note": bomb} if how == "beside good weights" else bomb
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    refusal = r"asks for (posix|nt)\.system, which may run code|is a pickle of more than plain tensors"
    with pytest.raises(DataError, match=refusal) as caught:
        read_state_dict(path)
    assert caught.value.remedy and "safetensors" in caught.value.remedy
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))  # the same code does run where it is trusted
    assert trace.exists()


def test_big_visions_archive_is_named_for_what_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "siglip.npz", np.zeros(1), np.zeros(1))
    with pytest.raises(DataError, match="NumPy arrays, as big_vision") as caught:
        read_state_dict(tmp_path / "siglip.npz")
    assert caught.value.remedy and "ViT-B-16-SigLIP2:webli" in caught.value.remedy


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(DataError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "module.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    with pytest.raises(DataError, match="TorchScript") as caught:
        read_state_dict(path)
    assert caught.value.remedy and "ViT-B-32:openai" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "a list"),
        ({"epoch": 3, "parts": {"a": torch.zeros(1)}}, '"epoch", "parts"'),
        ({}, "nothing"),
    ],
)
def test_what_holds_no_state_dict_is_refused_with_what_it_holds(
    tmp_path: Path, content: Any, found: str
) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DataError, match=found):
        read_state_dict(tmp_path / "x.pt")


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _saved(legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not weights",
        _cut(_saved(False)),
        _cut(_saved(True)),
        _zip(),
        _cut(safetensors.torch.save(STATE)),
    ],
    ids=["empty", "text", "cut zip", "cut legacy", "another zip", "cut safetensors"],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert caught.value.where == str(path) and "\n" not in str(caught.value)


def test_what_a_file_is_not_is_said_and_not_torchs_stumbling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert caught.value.where == str(path)
    path.write_bytes(b"not weights")
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert caught.value.where == str(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything
    with pytest.raises(DataError, match="Permission denied"):
        read_state_dict(path)


def test_a_git_lfs_placeholder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert caught.value.remedy == "run `git lfs pull`"


def _sharded(folder: Path, form: str, shards: dict[str, dict[str, Any]], index: dict[str, str]) -> Path:
    for name, shard in shards.items():
        if form == "safetensors":
            safetensors.torch.save_file(shard, folder / name)
        else:
            torch.save(shard, folder / name)
    path = folder / (
        "model.safetensors.index.json" if form == "safetensors" else "pytorch_model.bin.index.json"
    )
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_are_joined(tmp_path: Path, form: str) -> None:
    index = {"a": "one", "b": "two"}
    path = _sharded(tmp_path, form, {"one": {"a": STATE["a"]}, "two": {"b": STATE["b"]}}, index)
    state, digests = read_weights(path)
    assert _same(state) and sorted(digests) == ["one", "two"]


@pytest.mark.parametrize(
    ("index", "where", "message"),
    [
        ({"a": "../one"}, "model.safetensors.index.json", r"outside its folder: \.\./one"),
        ({"a": "one", "b": "three"}, "three", "is missing, and model.safetensors.index.json lists it"),
        ({"a": "one", "b": "two", "c": "two"}, "two", 'lacks "c", which the index lists in it'),
        ({"a": "one"}, "one", 'holds "b", which the index does not list'),
        ({"a": "one", "b": "one", "c": "twice"}, "twice", 'holds "b", which another shard holds too'),
        ({}, "model.safetensors.index.json", "has no weight_map"),
    ],
)
def test_shards_that_are_not_those_of_their_index_are_refused(
    tmp_path: Path, index: dict[str, str], where: str, message: str
) -> None:
    one = {"one": STATE if "b" not in index or index["b"] == "one" else {"a": STATE["a"]}}
    shards = {**one, "two": {"b": STATE["b"]}, "twice": {"b": STATE["b"], "c": STATE["a"]}}
    with pytest.raises(DataError, match=message) as caught:
        read_weights(_sharded(tmp_path, "safetensors", shards, index))
    assert caught.value.where == str(tmp_path / where) and caught.value.remedy


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "weights", "ema"])
def test_a_state_dict_is_found_under_each_usual_key(tmp_path: Path, key: str) -> None:
    torch.save({key: {"x": torch.ones(1)}, "epoch": 3}, tmp_path / "x.pt")
    assert list(read_state_dict(tmp_path / "x.pt")) == ["x"]


def test_two_candidates_are_not_chosen_from(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(1)}, "ema": {"x": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(DataError):
        read_state_dict(tmp_path / "x.pt")


def test_a_gzip_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(gzip.compress(b"weights"))
    with pytest.raises(DataError) as caught:
        read_state_dict(tmp_path / "x.pt")
    assert "gzip" in caught.value.what and "unpack" in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt", "x"])
@pytest.mark.parametrize("zipped", [True, False])
def test_content_decides_on_the_format_and_not_the_name(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_state_dict(tmp_path / name)["a"], torch.ones(3))


@pytest.mark.parametrize("format", ["zip", "tar", "gztar"])
def test_an_archive_of_weights_is_called_one(tmp_path: Path, format: str) -> None:
    (tmp_path / "inside").mkdir()
    torch.save({"a": torch.ones(3)}, tmp_path / "inside" / "weights.pt")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), format, tmp_path / "inside"))
    with pytest.raises(DataError) as caught:
        read_state_dict(archive)
    assert caught.value.where == str(archive) and "unpack" in str(caught.value.remedy)
