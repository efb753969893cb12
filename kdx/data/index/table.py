"""Named arrays in one file that is mapped: the layout of safetensors, read and written without its package.

Eight bytes with the length of the header (little-endian), the header (JSON: name → dtype, shape, data_offsets, and
`__metadata__`), then the arrays without gaps. Specification: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "I32": np.int32}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
MAX_HEADER = 2**27  # bytes


class DamagedTable(Exception):
    """Why a file is no table, in a few words."""


@dataclass(frozen=True)
class Table:
    """arrays: read-only, over the mapped file. about: what was written beside them."""

    arrays: dict[str, Array]
    about: dict[str, Any]
    payload: memoryview
    payload_digest: str

    def is_undamaged(self) -> bool:
        """Whether the arrays are those that were written; reads all of them. The header was checked at opening."""
        return hashlib.sha256(self.payload).hexdigest() == self.payload_digest


def encode_table(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> bytes:
    """The bytes of a file. about: JSON-serialisable."""
    # the widest first, so that each array begins at a multiple of its item's size
    widest_first = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    entries: dict[str, Any] = {}
    parts: list[bytes] = []
    end = 0
    for name, array in widest_first:
        parts.append(array.tobytes())
        start, end = end, end + len(parts[-1])
        entries[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    payload = b"".join(parts)
    metadata = {"about": json.dumps(about), "payload": hashlib.sha256(payload).hexdigest()}
    metadata["header"] = _header_digest(entries, metadata)
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + payload


def map_table(path: Path) -> Table:
    """Reads the header, which has its own digest, and maps the rest.

    The file may be replaced meanwhile: what is mapped stays as it was. Raises DamagedTable, and OSError if there is
    no file.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise DamagedTable("is cut short")
        mapped = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    length = int.from_bytes(mapped[:8], "little")
    if length > min(size - 8, MAX_HEADER):
        raise DamagedTable("has no header")
    try:
        header = cast(dict[str, Any], json.loads(bytes(mapped[8 : 8 + length])))
        metadata = header.pop("__metadata__")
        if metadata.pop("header") != _header_digest(header, metadata):
            raise DamagedTable("has a damaged header")
        payload = mapped[8 + length :]
        if len(payload) != max((entry["data_offsets"][1] for entry in header.values()), default=0):
            raise DamagedTable("is cut short")
        arrays = {name: _array(payload, entry) for name, entry in header.items()}
        return Table(arrays, json.loads(metadata["about"]), payload, metadata["payload"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise DamagedTable("has a damaged header") from None


def _header_digest(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    said = json.dumps([entries, metadata["about"], metadata["payload"]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _array(payload: memoryview, entry: Mapping[str, Any]) -> Array:
    start, end = entry["data_offsets"]
    return np.frombuffer(payload[start:end], dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
