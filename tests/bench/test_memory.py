"""Facts of kdx/bench/memory.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.bench import memory, peak_memory
from kdx.core.errors import DataError


def test_the_peak_is_that_of_a_process_of_its_own(
    exported_model: Path, make_photo: Callable[..., bytes]
) -> None:
    ballast = bytes(800 * 2**20)  # of this process, which a child must not begin with
    ballast = ballast.replace(b"\0", b"\1")
    peak = peak_memory(str(exported_model), [make_photo(0)] * 2, ["a", "b"])
    assert 30 < peak < 700 < memory.peak_of_this_process()
    del ballast


def test_a_fault_of_the_model_keeps_its_class(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        peak_memory(str(tmp_path / "missing"), [], [])
    assert error.value.where and "missing" in error.value.where
