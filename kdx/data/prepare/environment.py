"""The environment of img2dataset: its packages are old or of versions of their own, so they lie apart from kdx's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdx.core.environments import (
    environment_folder,
    interpreters,
    make_environment,
    pip_install,
    read_requirements,
    site_packages,
)
from kdx.core.errors import SetupError

REQUIREMENTS = Path(__file__).with_name("img2dataset-requirements.txt")
PYTHONS = ("3.11", "3.12")  # img2dataset imports imghdr, which Python 3.13 no longer has
DISTRIBUTORS = {  # what spreads the work → the packages that it needs
    "multiprocessing": (),
    "pyspark": ("pyspark==4.3.0",),
    "ray": ("ray==2.60.0",),
}
NO_WANDB = '"""img2dataset imports wandb and uses it only when asked to; kdx reports nothing to anybody."""\n'


@dataclass(frozen=True)
class Downloader:
    """python: the environment's interpreter, for the scripts beside this file."""

    python: Path
    installed_now: bool


def install_img2dataset(distributor: str = "multiprocessing") -> Downloader:
    """Makes the environment if it is not there (about 650 MB on disk). Raises SetupError."""
    python = next(interpreters(PYTHONS), None)
    if python is None:
        raise SetupError(
            f"img2dataset needs Python {' or '.join(PYTHONS)}",
            remedy=f"install python{PYTHONS[0]}, so that it is on the PATH",
        )
    more = DISTRIBUTORS[distributor]
    folder = environment_folder(
        "img2dataset", REQUIREMENTS.read_text(encoding="utf-8"), python["version"], *more
    )

    def fill(folder: Path) -> None:
        failure = "img2dataset's packages do not install"
        pinned = read_requirements(REQUIREMENTS)
        pip_install(folder, ["--no-deps", *pinned], failure)
        if more:
            pip_install(folder, list(more), failure)
        (site_packages(folder) / "wandb.py").write_text(NO_WANDB, encoding="utf-8")

    made = make_environment(folder, python["executable"], fill)
    return Downloader(folder / "bin/python", made)
