"""Facts of bench/loading.py at toy size; open_clip's loader needs an environment of its own and is left out."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.bench import loading
from kdx.bench.loading import EXACT, PEER, SCALED, loading_table, measure_loading
from kdx.core.errors import SetupError, UsageError
from kdx.core.images import decode_image


@pytest.fixture
def photos(tmp_path: Path, make_photo: Callable[..., bytes]) -> Path:
    (tmp_path / "deep").mkdir()
    for number in range(3):
        (tmp_path / "deep" / f"{number}.jpg").write_bytes(make_photo(number, size=60))
    return tmp_path


def test_each_program_reads_all_photos_in_each_turn(photos: Path) -> None:
    document = measure_loading(photos, sizes=(60,), count=5, turns=2)
    original = sum((photos / "deep" / f"{number % 3}.jpg").stat().st_size for number in range(5)) / 5
    (row,) = document["sizes"].values()
    assert row["image_bytes"] == original
    assert list(row["images_per_second"]) == [EXACT, SCALED]
    assert all(len(each["turns"]) == 2 and each["median"] > 0 for each in row["images_per_second"].values())
    assert row["ratios"] == {}
    table = loading_table(document)
    assert f"| photos of | {EXACT} | {SCALED} |" in table and "| 60 px" in table


def test_photos_are_made_as_long_as_is_asked(make_photo: Callable[..., bytes]) -> None:
    photo = make_photo(0, size=60)
    assert loading._of_length(photo, 65) == photo
    assert max(decode_image(loading._of_length(photo, 500)).size) == 500


def test_a_peer_that_fails_is_named_with_what_it_says(photos: Path) -> None:
    with pytest.raises(SetupError) as error:
        measure_loading(photos, sizes=(60,), count=3, turns=1, peer=Path("/bin/false"))
    assert "open_clip failed" in error.value.what and error.value.where == "/bin/false"
    with pytest.raises(SetupError, match="does not start"):
        measure_loading(photos, sizes=(60,), count=3, turns=1, peer=photos / "python")


def test_a_peer_that_says_much_does_not_stand_still(photos: Path, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfor line in sys.stdin:\n"
        "    print('a warning of many\\n' * 10_000, file=sys.stderr)\n    print(2.0, 5, flush=True)\n"
    )
    program.chmod(0o755)
    document = measure_loading(photos, sizes=(60,), count=3, turns=1, peer=program)
    assert document["sizes"]["60"]["images_per_second"][PEER]["median"] == 2.5


def test_a_folder_without_pictures_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pictures"):
        measure_loading(tmp_path)
