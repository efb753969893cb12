"""The layout that the packaging relies on."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("distill", "export", "serve", "bench")


def test_the_four_rooms_are_relative_links_in_the_package() -> None:
    for room in ROOMS:
        link = ROOT / "kdx" / room
        assert link.is_symlink() and link.readlink() == Path("..") / room


def test_no_module_imports_a_room_by_its_folder_name() -> None:
    pattern = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(ROOMS)})\b", re.MULTILINE)
    folders = (
        "kdx/core",
        "kdx/models",
        "kdx/data",
        "kdx/runtime",
        "kdx/evaluate",
        "kdx/cli",
        *ROOMS,
        "tests",
    )
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 30
    assert [str(file) for file in files if pattern.search(file.read_text(encoding="utf-8"))] == []
