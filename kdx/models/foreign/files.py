"""Reads the tensors of a weight file, and never runs what the file says.

A `.safetensors` file holds tensors only. torch's files are pickles, which may name any function: they are read by
torch's weights-only unpickler, which builds tensors and plain containers and refuses all else.
"""

from __future__ import annotations

import json
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from kdx.core.digests import file_digest
from kdx.core.errors import DataError
from kdx.core.folders import read_json

State = dict[str, Any]

PICKLE = b"\x80"  # with this begins every pickle of protocol 2 and up; torch.save never wrote lower ones
STATE_KEYS = ("state_dict", "model_state_dict", "model", "module", "weights", "ema")
INDEX = ".index.json"  # ends the name of the file that says which shard holds which key
GET_AGAIN = "it is damaged or incomplete; get it again"


def read_state_dict(path: Path) -> dict[str, Any]:
    """The state dict in a weight file: the content itself, or what lies under its key "state_dict", else under the
    only one of STATE_KEYS that is there.

    The content decides on the format, not the name: safetensors, torch's zip files (mapped, so that an optimizer's
    state beside the weights takes no memory) and torch's files from before 1.6. Values are tensors, save for stray
    entries that layouts.py judges. Raises DataError for a pickle with code, TorchScript, or what is no such file.
    """
    content = _read(path)
    if isinstance(content, dict):
        inner = [content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)]
        content = inner[0] if len(inner) == 1 or isinstance(content.get("state_dict"), dict) else content
    if not isinstance(content, dict) or not any(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        found = _list(content) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DataError(
            f"holds no state dict but {found}",
            where=path,
            remedy="save the weights with torch.save(model.state_dict(), FILE)",
        )
    if unnamed := [key for key in content if not isinstance(key, str)]:
        raise DataError(f"has keys that are no names: {_list(unnamed)}", where=path, remedy=GET_AGAIN)
    return content


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The state dict of a weight file, or of the shards that a Hugging Face index lists; digests of the files by name.

    Raises as read_state_dict, and DataError for shards that are not those of the index.
    """
    if path.name.endswith(INDEX):
        return _read_shards(path)
    return read_state_dict(path), {path.name: file_digest(path)}


def _read_shards(index: Path) -> tuple[dict[str, Any], dict[str, str]]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise DataError("has no weight_map", where=index, remedy=GET_AGAIN)
    state: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for name in sorted(set(map(str, places.values()))):
        path = index.parent / name
        if Path(name).name != name:
            raise DataError(f"names a file outside its folder: {name}", where=index, remedy="do not use it")
        if not path.is_file():
            raise DataError(
                f"is missing, and {index.name} lists it", where=path, remedy="get this shard again"
            )
        shard = read_state_dict(path)
        _check_shard(shard, name, places, state, path)
        state |= shard
        digests[name] = file_digest(path)
    return state, digests


def _check_shard(
    shard: dict[str, Any], name: str, places: dict[str, Any], before: dict[str, Any], path: Path
) -> None:
    """Raises DataError for a shard that does not hold exactly what the index says of it."""
    other = "it belongs to other weights than the index; get both again"
    if twice := [key for key in shard if key in before]:
        raise DataError(f"holds {_list(twice)}, which another shard holds too", where=path, remedy=other)
    if lacking := [key for key, place in places.items() if place == name and key not in shard]:
        raise DataError(f"lacks {_list(lacking)}, which the index lists in it", where=path, remedy=other)
    if surplus := [key for key in shard if key not in places]:
        raise DataError(f"holds {_list(surplus)}, which the index does not list", where=path, remedy=other)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError("there is no such file", where=path, remedy="check the path")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the file") from None
    if not start:
        raise DataError("is empty", where=path, remedy=GET_AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise DataError("is Git LFS's placeholder, not the weights", where=path, remedy="run `git lfs pull`")
    if start.startswith(b"\x1f\x8b"):
        raise DataError("is compressed by gzip", where=path, remedy="unpack it, and give what is inside")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"PK") and zipfile.is_zipfile(path):  # a tar may hold a zip too
        _check_torch_zip(path)
        return _read_torch(path, mmap=True)
    if tarfile.is_tarfile(path):
        raise DataError("is a tar archive", where=path, remedy="unpack it, and give the weight file inside")
    if not start.startswith(PICKLE):
        raise DataError("is neither safetensors nor a file of torch.save", where=path, remedy=GET_AGAIN)
    return _read_torch(path, mmap=False)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise DataError(f"is no whole safetensors file: {error}", where=path, remedy=GET_AGAIN) from None


def _read_torch(path: Path, *, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            if path.suffix == ".safetensors":  # torch goes by this name, whatever the file holds
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly everything
        message = str(error)
    if found := re.search(r"GLOBAL (\S+)", message):
        raise DataError(
            f"is a pickle that asks for {found[1]}, which may run code, so it was not read",
            where=path,
            remedy="ask its author for a .safetensors file, or for torch.save(model.state_dict(), FILE)",
        )
    if "weights_only" in message:  # the rest of this answer tells how to trust the file
        raise DataError(
            "is a pickle of more than plain tensors, or damaged, so it was not read",
            where=path,
            remedy="ask its author for a .safetensors file; if it is damaged, get it again",
        )
    raise DataError(f"cannot be read as weights: {_reason(message)}", where=path, remedy=GET_AGAIN)


def _check_torch_zip(path: Path) -> None:
    """Raises DataError for a zip archive that torch.save did not write, and for TorchScript."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if all(name.endswith(".npy") for name in names):
        raise DataError(
            "is an archive of NumPy arrays, as big_vision publishes SigLIP",
            where=path,
            remedy="import the same weights by open_clip's name, such as ViT-B-16-SigLIP2:webli",
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise DataError(
            f"is a zip archive of {_list(names)}",
            where=path,
            remedy="unpack it, and give the weight file inside",
        )
    if not any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return
    raise DataError(
        "is a TorchScript archive: it holds a program beside the weights, so it was not read",
        where=path,
        remedy="import the same weights by name, such as ViT-B-32:openai, or from a Hugging Face folder",
    )


def _reason(message: str) -> str:
    """The first sentence of torch's answer, which goes on for paragraphs."""
    first = (message.strip().splitlines() or ["unknown reason"])[0]
    return first if len(first) <= 160 else f"{first[:160]} …"


def _list(keys: Any) -> str:
    names = [json.dumps(key, default=str) for key in keys]
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        if names
        else "nothing"
    )
