"""Facts of kdx/data/sources/json_items.py: items come as json.load would give them, whatever the pieces read."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from kdx.core.errors import DataError
from kdx.data.sources import json_items
from kdx.data.sources.json_items import read_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "c"]) | st.text(max_size=3), VALUES, max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS, st.integers(1, 9), st.sampled_from([None, 2]))
def test_items_are_those_of_the_whole_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any], chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(json.dumps(document, indent=indent), encoding="utf-8")
    expected = [
        (name, item)
        for name, items in document.items()
        if name in ("a", "b") and isinstance(items, list)
        for item in items
    ]
    assert list(read_items(tmp_path / "a.json", ("a", "b"))) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40))
def test_any_text_is_items_or_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text('{"a": [' + text, encoding="utf-8", errors="replace")
    with pytest.raises(DataError):
        list(read_items(tmp_path / "a.json", ("a",)))
        json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        raise DataError("the document is whole")


def test_memory_does_not_grow_with_the_document(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("w") as file:
        file.write('{"a": [')
        file.write(", ".join(json.dumps({"caption": "x" * 200, "id": n}) for n in range(60_000)))
        file.write("]}")
    tracemalloc.start()
    assert sum(1 for _ in read_items(tmp_path / "a.json", ("a",))) == 60_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20 < (tmp_path / "a.json").stat().st_size
