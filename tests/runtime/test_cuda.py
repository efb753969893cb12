"""Facts of kdx/runtime/cuda.py: it asks cuda.bindings.runtime for what that has."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdx.core.errors import SetupError
from kdx.runtime.cuda import checked, find_gpu

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "kdx/runtime/cuda.py", ROOT / "kdx/runtime/tensorrt.py"]


@pytest.fixture
def cudart() -> Any:
    """The real package; without a driver its calls answer with an error code."""
    return pytest.importorskip("cuda.bindings.runtime")


def _parameters(function: Any) -> list[str]:
    """From the first line of its documentation, such as `cudaMemcpyAsync(dst, src, size_t count, kind: …, stream)`."""
    inside = function.__doc__.splitlines()[0].partition("(")[2].rstrip(")")
    return [re.sub(r":.*", "", part).split()[-1] for part in inside.split(",") if part.strip()]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_call_is_one_of_the_package_with_its_number_of_arguments(source: Path, cudart: Any) -> None:
    tree = ast.parse(source.read_text())
    used = 0
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("cuda")
            and "cudart" in ast.unparse(node.value)
        ):
            found = cudart
            for name in ast.unparse(node).partition("cudart.")[2].split("."):
                found = getattr(found, name)
            used += 1
        name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if isinstance(node, ast.Call) and name.startswith("cuda"):
            assert len(node.args) == len(_parameters(getattr(cudart, name))), name
    assert used > 10


def test_the_fake_has_nothing_that_the_package_lacks(cudart: Any, fake_gpu: Path) -> None:
    fake: ModuleType = importlib.import_module("cuda.bindings.runtime")
    assert fake is not cudart
    for name in [name for name in vars(fake) if name.startswith("cuda")]:
        real, stand_in = getattr(cudart, name), getattr(fake, name)
        if isinstance(stand_in, type):
            members = getattr(stand_in, "__members__")  # noqa: B009
            assert {each: number.value for each, number in members.items()} == {
                each: getattr(real, each).value for each in members
            }
        elif callable(stand_in):
            code = stand_in.__code__
            assert list(code.co_varnames[: code.co_argcount]) == _parameters(real), name
        else:
            assert stand_in == real


def test_without_a_gpu_cudas_own_word_for_it_is_said(cudart: Any) -> None:
    if cudart.cudaGetDeviceCount()[1]:
        pytest.skip("there is a GPU")
    with pytest.raises(SetupError) as caught:
        find_gpu(cudart)
    assert "cudaError" in caught.value.what


def test_an_error_code_becomes_the_machines_fault(cudart: Any) -> None:
    with pytest.raises(SetupError) as caught:
        checked(cudart, (cudart.cudaError_t.cudaErrorMemoryAllocation, None))
    assert "cudaErrorMemoryAllocation: out of memory" in caught.value.what
    assert checked(cudart, (cudart.cudaError_t.cudaSuccess,)) is None
