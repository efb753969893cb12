"""Facts of kdx/data/sources/opening.py: what goes with what."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.data.convert import convert
from kdx.data.shards import open_split
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source


def _roots(folder: Path, make_photo: Callable[..., bytes]) -> tuple[list[Path], list[Path]]:
    """CC3M and CC12M in CLIP-KD's layout, with the same names of files in both."""
    roots, tables = [folder / "cc3m", folder / "cc12m"], [folder / "cc3m.tsv", folder / "cc12m.tsv"]
    for number, (root, table) in enumerate(zip(roots, tables, strict=True)):
        (root / "0").mkdir(parents=True)
        lines = ["title\tfilepath"]
        for image in range(3):
            (root / "0" / f"{image}.jpg").write_bytes(make_photo(10 * number + image))
            lines.append(f"{root.name} {image}\t0/{image}.jpg")
        table.write_text("\n".join(lines))
    return roots, tables


def test_several_tables_go_with_as_many_folders(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    roots, tables = _roots(tmp_path, make_photo)
    result = convert(open_source(roots, tables, Wanted()), tmp_path / "out")
    assert result.splits == {"train": (6, 6)}
    samples = {sample.captions[0]: sample for sample in open_split(tmp_path / "out", "train")}
    assert samples["cc12m 1"].image == make_photo(11) and samples["cc3m 1"].image == make_photo(1)
    (roots[1] / "0/2.jpg").unlink()
    with pytest.raises(DataError, match=r"cc12m\.tsv: 0/2\.jpg: there is no such file"):
        convert(open_source(roots, tables, Wanted()), tmp_path / "again")


def test_one_table_goes_with_several_folders(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    roots, tables = _roots(tmp_path, make_photo)
    (roots[0] / "0/2.jpg").unlink()
    convert(open_source(roots, tables[:1], Wanted()), tmp_path / "out")
    assert [s.image for s in open_split(tmp_path / "out", "train")] == [make_photo(n) for n in (0, 1, 12)]


def test_a_table_alone_has_its_images_beside_it(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    (tmp_path / "a.jpg").write_bytes(make_photo(1))
    (tmp_path / "captions.csv").write_text(f"image,caption\na.jpg,x\n{tmp_path}/a.jpg,y\n")
    assert convert(open_source([tmp_path / "captions.csv"], [], Wanted()), tmp_path / "out").splits == {
        "train": (2, 2)
    }


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.csv").write_text("image,caption\n")
    a, b, c = (tmp_path / name for name in "abc")
    with pytest.raises(UsageError, match="2 files with captions and 3 folders"):
        open_source([a, b, c], [tmp_path / "a.csv", tmp_path / "b.csv"], Wanted())
    with pytest.raises(UsageError, match="several folders without --captions"):
        open_source([a, b], [], Wanted())
    with pytest.raises(UsageError, match="not a folder of images"):
        open_source([tmp_path / "b.csv"], [tmp_path / "a.csv"], Wanted())
    for missing in ([tmp_path / "nowhere"], []), ([a], [tmp_path / "nowhere.csv"]):
        with pytest.raises(DataError, match="there is no such"):
            open_source(*missing, Wanted())
