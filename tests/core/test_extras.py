"""Facts of kdx/core/extras.py: the extra that a missing package belongs to is named."""

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdx.core.errors import SetupError
from kdx.core.extras import TRAIN, naming_the_extra

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_every_package_of_the_extra_is_known_by_its_import_name() -> None:
    wanted = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["train"]
    brings = packages_distributions()
    known = {canonicalize_name(name) for module in TRAIN for name in brings[module]}
    assert known == {canonicalize_name(Requirement(line).name) for line in wanted}


@pytest.mark.parametrize("package", sorted(TRAIN))
def test_a_missing_package_is_the_machines_fault_and_the_extra_is_named(package: str) -> None:
    with pytest.raises(SetupError) as error, naming_the_extra():
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    assert package in error.value.what
    assert error.value.remedy and "pip install 'kdx[train," in error.value.remedy


@pytest.mark.parametrize("name", ["kdx.missing", "torch.missing", "json.missing"])
def test_what_no_extra_brings_stays_what_it_is(name: str) -> None:
    with pytest.raises(ModuleNotFoundError), naming_the_extra():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
