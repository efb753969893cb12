"""The environment of img2dataset: its packages are old or of versions of their own, so they lie apart from kdx's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdx.core.environments import (
    environment_folder,
    interpreters,
    is_complete,
    make_environment,
    pip_install,
    read_requirements,
    site_packages,
)
from kdx.core.errors import SetupError

REQUIREMENTS = Path(__file__).with_name("img2dataset-requirements.txt")
PYTHONS = ("3.11", "3.12")  # img2dataset imports imghdr, which Python 3.13 no longer has
DISTRIBUTORS: dict[str, tuple[str, ...]] = {  # what spreads the work → the packages that it needs
    "multiprocessing": (),
    "pyspark": ("pyspark==4.3.0",),
    "ray": ("ray==2.60.0",),
}
NO_WANDB = '"""img2dataset imports wandb and uses it only when asked to; kdx reports nothing to anybody."""\n'


@dataclass(frozen=True)
class Downloader:
    """Where img2dataset is, or will be, in an environment of about 700 MB.

    base: the interpreter that it is made with. packages: those of the distributor.
    """

    folder: Path
    base: str
    packages: tuple[str, ...]

    @property
    def python(self) -> Path:
        """The interpreter for the scripts beside this file."""
        return self.folder / "bin/python"

    @property
    def is_installed(self) -> bool:
        return is_complete(self.folder)

    def install(self) -> bool:
        """Makes the environment if it is not there; returns whether it was made now. Raises SetupError."""
        return make_environment(self.folder, self.base, self._fill)

    def _fill(self, folder: Path) -> None:
        failure = "img2dataset's packages do not install"
        pip_install(folder, ["--no-deps", *read_requirements(REQUIREMENTS)], failure)
        if self.packages:
            pip_install(folder, self.packages, failure)
        (site_packages(folder) / "wandb.py").write_text(NO_WANDB, encoding="utf-8")


def find_downloader(distributor: str = "multiprocessing") -> Downloader:
    """Raises SetupError if there is no Python here that img2dataset can use."""
    python = next(interpreters(PYTHONS), None)
    if python is None:
        raise SetupError(
            f"img2dataset needs Python {' or '.join(PYTHONS)}",
            remedy=f"install python{PYTHONS[0]}, so that it is on the PATH",
        )
    packages = DISTRIBUTORS[distributor]
    pinned = REQUIREMENTS.read_text(encoding="utf-8")
    folder = environment_folder("img2dataset", pinned, python["version"], *packages)
    return Downloader(folder, python["executable"], packages)
