"""Facts of kdx/data/convert.py: what is written, left out, held out, and taken up again after a kill."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.core.errors import DataError, UsageError
from kdx.core.images import decode_image
from kdx.data.checksums import verify_set
from kdx.data.convert import Converted, convert
from kdx.data.shards import Sample, open_split
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source

MakePhoto = Callable[..., bytes]


@pytest.fixture
def photos(tmp_path: Path, make_photo: MakePhoto) -> Path:
    """Thirty photos, and captions.csv beside their folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.jpg").write_bytes(make_photo(number))
    _write_captions(tmp_path, [(f"{number:02d}.jpg", f"caption {number}") for number in range(30)])
    return folder


def _write_captions(folder: Path, rows: list[tuple[str, str]]) -> None:
    lines = ["filepath,title", *(f"{image},{caption}" for image, caption in rows)]
    (folder / "captions.csv").write_text("\n".join(lines))


def _convert(photos: Path, **options: object) -> Converted:
    source = open_source([photos], [photos.parent / "captions.csv"], Wanted())
    return convert(source, photos.parent / "shards", **options)  # pyright: ignore[reportArgumentType]


def _keys(folder: Path, split: str) -> set[str]:
    return set(open_split(folder, split).keys)


def test_files_are_copied_as_they_are(photos: Path) -> None:
    result = _convert(photos)
    assert result.splits == {"train": (30, 30)} and result.num_left_out == 0
    samples = open_split(photos.parent / "shards", "train")
    assert samples[7] == Sample("07", (photos / "07.jpg").read_bytes(), ("caption 7",), None)
    assert sorted(os.listdir(photos.parent)) == ["captions.csv", "photos", "shards"]  # noqa: PTH208


def test_packing_jpegs_loads_no_library_that_decodes_or_computes(photos: Path) -> None:
    code = """
import sys
from kdx.cli import main
try:
    main(["data", "convert", sys.argv[1], "--captions", sys.argv[2], "--out", sys.argv[3]])
finally:
    print([name for name in ("numpy", "PIL", "ftfy", "rich", "torch") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, photos, photos.parent / "captions.csv", photos.parent / "shards"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True
    )  # it takes a third of a small set's time
    assert done.stdout == f"{photos.parent / 'shards'}\n[]\n"


def test_the_same_source_gives_the_same_bytes(photos: Path) -> None:
    _convert(photos, val=0.3)
    first = {file.name: file.read_bytes() for file in (photos.parent / "shards").iterdir()}
    _convert(photos, val=0.3, overwrite=True)
    assert {file.name: file.read_bytes() for file in (photos.parent / "shards").iterdir()} == first


def test_held_out_images_stay_held_out_when_others_are_added(photos: Path, make_photo: MakePhoto) -> None:
    _convert(photos, val=0.3)
    shards = photos.parent / "shards"
    before = _keys(shards, "val")
    assert 3 <= len(before) <= 15 and before | _keys(shards, "train") == {f"{n:02d}" for n in range(30)}
    (photos / "a new one.jpg").write_bytes(make_photo(99))
    _write_captions(
        photos.parent,
        [("a new one.jpg", "new"), *((f"{n:02d}.jpg", f"caption {n}") for n in reversed(range(30)))],
    )
    _convert(photos, val=0.3, overwrite=True)
    assert _keys(shards, "val") - {"a new one"} == before


def test_a_share_that_holds_nothing_out_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="would hold out 0 of 30"):
        _convert(photos, val=1e-6)
    assert not (photos.parent / "shards").exists()


def test_captions_of_one_image_are_found_wherever_they_stand(photos: Path) -> None:
    rows = [(f"{n:02d}.jpg", f"{word} {n}") for word in ("one", "two", "three") for n in range(30)]
    _write_captions(photos.parent, rows)
    assert _convert(photos).splits == {"train": (30, 90)}
    assert open_split(photos.parent / "shards", "train")[4].captions == ("one 4", "two 4", "three 4")


def test_what_cannot_be_used_is_left_out_and_named(photos: Path) -> None:
    (photos / "03.jpg").unlink()
    (photos / "04.jpg").write_text("<html>not found</html>")
    (photos / "05.jpg").write_bytes(b"")
    result = _convert(photos)
    assert result.splits == {"train": (27, 27)} and result.num_left_out == 3
    named = [json.loads(line) for line in (photos.parent / "shards/skipped.jsonl").read_text().splitlines()]
    assert [line["image"] for line in named] == ["03.jpg", "04.jpg", "05.jpg"]
    assert named[0]["reason"] == "there is no such file" and "not an image" in named[1]["reason"]
    assert named[2]["reason"] == "the file is empty"


def test_more_than_a_tenth_stops_it_and_leaves_nothing_but_their_names(photos: Path) -> None:
    for number in range(4):
        (photos / f"{number:02d}.jpg").unlink()
    with pytest.raises(
        DataError, match=r"4 of 30 images cannot be used .*00\.jpg: there is no such file"
    ) as said:
        _convert(photos)
    assert sorted(os.listdir(photos.parent)) == ["captions.csv", "photos", "shards-skipped.jsonl"]  # noqa: PTH208
    named = (photos.parent / "shards-skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in named] == [f"{n:02d}.jpg" for n in range(4)]
    assert str(photos.parent / "shards-skipped.jsonl") in str(said.value.remedy)
    shutil.copy(photos / "20.jpg", photos / "00.jpg")
    assert _convert(photos).num_left_out == 3
    assert sorted(os.listdir(photos.parent)) == ["captions.csv", "photos", "shards"]  # noqa: PTH208


def test_odd_captions_are_named_and_the_image_keeps_the_others(photos: Path) -> None:
    rows = [(f"{n:02d}.jpg", f"caption {n}") for n in range(30)]
    _write_captions(
        photos.parent, [*rows, ("00.jpg", "  "), ("01.jpg", "\ufeff"), ("02.jpg", "x" * (2**20 + 1))]
    )
    result = _convert(photos)
    assert result.left_out == [("captions.csv, line 34", "has a field of more than 1,048,576 characters")]
    assert result.num_notes == 2 and result.notes[0] == ("00.jpg", "a caption is empty")
    assert result.splits == {"train": (30, 30)}


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF", "PPM"])
def test_what_shards_cannot_hold_becomes_png_with_the_same_pixels(
    photos: Path, make_photo: MakePhoto, kind: str
) -> None:
    image = Image.open(io.BytesIO(make_photo(1)))
    image.save(photos / "00.jpg", kind)
    result = _convert(photos)
    if kind == "PPM":  # kdx reads none
        assert result.num_left_out == 1
        return
    written = open_split(photos.parent / "shards", "train")[0].image
    assert written.startswith(b"\x89PNG")
    expected = np.asarray(decode_image(photos / "00.jpg"))
    assert np.array_equal(np.asarray(decode_image(written)), expected)


def test_two_files_that_differ_by_their_extension_are_two_samples(
    photos: Path, make_photo: MakePhoto
) -> None:
    (photos / "00.png").write_bytes(make_photo(3, kind="PNG"))
    _write_captions(photos.parent, [("00.jpg", "a"), ("00.png", "b")])
    _convert(photos)
    samples = open_split(photos.parent / "shards", "train")
    assert [sample.captions for sample in samples] == [("a",), ("b",)]
    assert samples.keys[0] == "00" and samples.keys[1].startswith("00-")


def test_a_killed_conversion_goes_on_behind_its_last_whole_shard(photos: Path) -> None:
    code = """
import sys, time
from pathlib import Path
import kdx.data.convert as module
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source
photos = Path(sys.argv[1])
read = module._image
def slow(content):
    time.sleep(0.02)
    return read(content)
module._image = slow
source = open_source([photos], [photos.parent / "captions.csv"], Wanted())
module.convert(source, photos.parent / "shards", samples_per_shard=4)
"""
    journal = photos.parent / ".shards.converting" / "journal.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code, str(photos)])
    until = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (photos.parent / "shards").exists()

    result = _convert(photos, samples_per_shard=4)
    assert 3 <= result.resumed_shards < 8 and result.splits == {"train": (30, 30)}
    assert sorted(os.listdir(photos.parent)) == ["captions.csv", "photos", "shards"]  # noqa: PTH208
    resumed = {file.name: file.read_bytes() for file in (photos.parent / "shards").iterdir()}
    assert _convert(photos, samples_per_shard=4, overwrite=True).resumed_shards == 0
    assert {file.name: file.read_bytes() for file in (photos.parent / "shards").iterdir()} == resumed


def _interrupt(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion in shards of 4 that ends in the middle of its sixth one."""

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _convert(photos, samples_per_shard=4, progress=stop)


def test_an_image_that_changed_meanwhile_is_read_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt(photos, monkeypatch)
    (photos / "05.jpg").write_bytes((photos / "29.jpg").read_bytes())
    result = _convert(photos, samples_per_shard=4)
    assert result.resumed_shards == 4
    assert open_split(photos.parent / "shards", "train")[5].image == (photos / "29.jpg").read_bytes()
    assert verify_set(photos.parent / "shards").whole


def test_a_source_that_changed_meanwhile_begins_anew(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt(photos, monkeypatch)
    _write_captions(photos.parent, [(f"{n:02d}.jpg", f"other {n}") for n in range(30)])
    assert _convert(photos, samples_per_shard=4).resumed_shards == 0
    assert open_split(photos.parent / "shards", "train")[0].captions == ("other 0",)


KILLED_AT_THE_MOVE = """
import os, signal, sys
from pathlib import Path
import kdx.data.conversion_folder as module
from kdx.data.convert import convert
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source
def end():
    os.kill(os.getpid(), signal.SIGKILL)
def half(moves):
    for source, target in moves[:int(sys.argv[2])]:
        source.rename(target)
    end()
if int(sys.argv[2]) < 9:
    module.move_all = half
else:  # all is moved, and what it replaced is about to go
    write = module.ConversionFolder._write_line
    module.ConversionFolder._write_line = lambda work, line: (write(work, line), module.MOVED in line and end())
photos = Path(sys.argv[1])
convert(open_source([photos], [photos.parent / "captions.csv"], Wanted()), photos.parent / "shards", overwrite=True)
"""


def _kill_at_the_move(photos: Path, moves: int) -> None:
    command = [sys.executable, "-c", KILLED_AT_THE_MOVE, str(photos), str(moves)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_kill_between_the_renames_is_undone_by_the_next(photos: Path) -> None:
    _convert(photos)
    old = (photos.parent / "shards/train-00000.tar").read_bytes()
    _write_captions(photos.parent, [(f"{n:02d}.jpg", f"other {n}") for n in range(30)])
    _kill_at_the_move(photos, 3)
    with pytest.raises(UsageError, match="would hold out"):  # what lay there is back all the same
        _convert(photos, val=1e-6, overwrite=True)
    assert (photos.parent / "shards/train-00000.tar").read_bytes() == old
    assert verify_set(photos.parent / "shards").whole
    result = _convert(photos, overwrite=True)
    assert result.splits == {"train": (30, 30)}
    assert open_split(photos.parent / "shards", "train")[0].captions == ("other 0",)


def test_half_of_a_first_set_is_not_taken_for_one(photos: Path) -> None:
    _kill_at_the_move(photos, 1)
    assert (photos.parent / "shards/train-00000.tar").exists()
    assert _convert(photos).resumed_shards == 1  # unasked for --overwrite: the same command goes on
    assert verify_set(photos.parent / "shards").whole


def test_a_whole_set_stays_though_a_kill_kept_its_folder(photos: Path) -> None:
    _convert(photos)
    _write_captions(photos.parent, [(f"{n:02d}.jpg", f"other {n}") for n in range(30)])
    _kill_at_the_move(photos, 9)
    with pytest.raises(
        UsageError, match="would hold out"
    ):  # the next fails, and the set is still the newer one
        _convert(photos, val=1e-6, overwrite=True)
    assert open_split(photos.parent / "shards", "train")[0].captions == ("other 0",)
    with pytest.raises(UsageError, match="holds a set already"):
        _convert(photos)
    assert sorted(os.listdir(photos.parent)) == ["captions.csv", "photos", "shards"]  # noqa: PTH208


def test_two_conversions_into_one_folder_are_refused(photos: Path) -> None:
    def again(done: int, total: int, note: str = "") -> None:
        with pytest.raises(UsageError, match="another kdx converts"):
            _convert(photos)

    _convert(photos, progress=again)
    assert len(open_split(photos.parent / "shards", "train")) == 30


def test_a_full_disk_is_one_line_and_the_next_goes_on(photos: Path) -> None:
    # a limit on the size of a file has the kernel refuse writing as a full disk does; the second shard meets it
    for number in range(4, 8):
        (photos / f"{number:02d}.jpg").write_bytes(
            (photos / f"{number:02d}.jpg").read_bytes() + bytes(100_000)
        )
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from kdx.cli import main
import kdx.data.convert as module
module.convert.__kwdefaults__["samples_per_shard"] = 4
main(sys.argv[1:])
"""
    command = [
        "data",
        "convert",
        photos,
        "--captions",
        photos.parent / "captions.csv",
        "--out",
        photos.parent / "shards",
    ]
    full = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert full.returncode == 5, full.stderr
    assert (
        f"error: {photos.parent / 'shards'}: cannot be written: File too large\n  remedy: free space"
        in full.stderr
    )
    assert "Traceback" not in full.stderr and "1 finished shards are kept" in full.stderr
    assert not (photos.parent / "shards").exists()
    assert _convert(photos, samples_per_shard=4).resumed_shards == 1
    assert len(open_split(photos.parent / "shards", "train")) == 30


def test_a_disk_that_is_full_while_the_table_is_read_is_one_line(photos: Path) -> None:
    _write_captions(photos.parent, [(f"{n % 30:02d}.jpg", f"caption {n} " * 20) for n in range(3000)])
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from kdx.cli import main
main(["data", "convert", sys.argv[1], "--captions", sys.argv[2], "--out", sys.argv[3]])
"""
    out = photos.parent / "shards"
    command = [sys.executable, "-c", code, photos, photos.parent / "captions.csv", out]
    full = subprocess.run(command, capture_output=True, text=True, check=False)
    assert full.returncode == 5 and f"error: {out}: cannot be written: Input/output error" in full.stderr
    assert "Traceback" not in full.stderr
    assert sorted(os.listdir(photos.parent)) == ["captions.csv", "photos"]  # noqa: PTH208


def test_odd_files_of_the_world_are_read_or_named(real_photos: Path, tmp_path: Path) -> None:
    """Each file that kdx reads is a sample with the same pixels, and each other one that is noticed is named."""
    (tmp_path / "photos").mkdir()
    lines = ["file,caption"]
    readable: dict[str, Path] = {}
    for path in sorted((real_photos / "odd").iterdir()):
        if path.name == "manifest.json":
            continue
        try:
            decode_image(path)
        except DataError:
            continue
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},{path.name}")
        readable[path.name] = path
    (tmp_path / "photos" / "page.jpg").write_text("<html></html>")
    (tmp_path / "captions.csv").write_text("\n".join([*lines, "page.jpg,x"]))
    result = _convert(tmp_path / "photos")
    assert [image for image, _ in result.left_out] == ["page.jpg"]
    samples = {sample.captions[0]: sample for sample in open_split(tmp_path / "shards", "train")}
    assert samples.keys() == readable.keys() and len(readable) > 15
    for name, path in readable.items():
        assert np.array_equal(
            np.asarray(decode_image(samples[name].image)), np.asarray(decode_image(path))
        ), name


def test_a_folder_of_real_photos_and_its_table_become_a_set(real_photos: Path, tmp_path: Path) -> None:
    place = real_photos / "imagenet-sample"
    source = open_source([place / "small"], [place / "labels.csv"], Wanted(label="class_index"))
    result = convert(source, tmp_path / "shards", val=0.2)
    assert sum(images for images, _ in result.splits.values()) == 1000 and result.num_left_out == 0
    assert 150 < result.splits["val"][0] < 250
    val = open_split(tmp_path / "shards", "val", need_captions=False)
    assert (
        all(0 <= (val.label(row) or 0) < 1000 for row in range(len(val)))
        and verify_set(tmp_path / "shards").whole
    )
