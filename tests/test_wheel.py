"""Facts of the built wheel: every file of the package is in it, and nothing else."""

import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def contents(wheel: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel)


def _package_files(contents: zipfile.ZipFile) -> set[str]:
    return {name for name in contents.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_package_and_nothing_else(source: Path, contents: zipfile.ZipFile) -> None:
    expected: set[str] = set()
    for folder in (source / "kdx").iterdir():  # rglob does not enter the four links
        inside = folder.resolve().rglob("*") if folder.is_dir() else [folder]
        files = [file for file in inside if file.is_file() and file.suffix != ".pyc"]
        parent = folder.resolve() if folder.is_dir() else folder.parent
        prefix = f"kdx/{folder.name}/" if folder.is_dir() else "kdx/"
        expected |= {prefix + file.relative_to(parent).as_posix() for file in files}
    assert len(expected) > 80
    assert _package_files(contents) == expected


@pytest.mark.parametrize(
    "name",
    [
        "kdx/distill/recipes/demo-clip-kd.toml",
        "kdx/distill/recipes/clip-kd/_base.toml",
        "kdx/models/architectures/ViT-T-16.json",
        "kdx/bench/report.html",
        "kdx/serve/server-requirements.txt",
        "kdx/data/prepare/img2dataset-requirements.txt",
        "kdx/data/prepare/download.py",
        "kdx/serve/triton_models/zero_shot.py",
        "kdx/export/parity.py",
        "kdx/cli/demo.py",
    ],
)
def test_what_is_read_or_copied_at_run_time_is_there(contents: zipfile.ZipFile, name: str) -> None:
    assert contents.read(name) == (ROOT / name).read_bytes()


def test_each_pattern_of_package_data_finds_something(source: Path) -> None:
    project = tomllib.loads((source / "pyproject.toml").read_text())
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            found = list((source / package.replace(".", "/")).glob(pattern))
            assert [file for file in found if file.suffix != ".py"], f"{package}: {pattern}"


def test_the_command_and_the_licence_are_declared(contents: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in contents.namelist() if name.endswith("entry_points.txt"))
    parsed = ConfigParser()
    parsed.read_string(contents.read(entry_points).decode())
    assert dict(parsed["console_scripts"]) == {"kdx": "kdx.cli:main"}
    assert any(name.endswith("licenses/LICENSE") for name in contents.namelist())
