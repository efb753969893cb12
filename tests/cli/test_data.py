"""Facts of `kdx data`: sets are made, cut and described, and what cannot be is said with its exit code."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.cli import main
from kdx.data.shards import Sample, open_split, write_shards
from kdx.data.synthetic.scene import CLASSES

MakeSamples = Callable[..., list[Sample]]


def _run(*args: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["data", *map(str, args)])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def _synthetic(out: Path, *options: object) -> int:
    return _run("synthetic", out, "--train", 6, "--val", 3, "--image-size", 16, *options)


def test_a_drawn_set_is_described_as_text_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shapes"
    assert _synthetic(out, "--seed", 5) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n" and f"next: kdx data info {out}" in shown.err
    assert _run("info", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 6 samples in 1 shards, 6 labelled"
    assert lines[1].startswith("  6 captions, ") and " words (median " in lines[1]
    assert lines[2] == "val: 3 samples in 1 shards, 3 labelled"
    assert lines[4].startswith("images: 9 PNG; ") or lines[4].startswith("images: 9 JPEG; ")
    assert lines[5] == "  shorter side 16 px; longer side 16 px"
    assert lines[-1].startswith(f"classes: {len(CLASSES)} ({CLASSES[0]}, ")
    assert _run("info", out, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["folder"] == str(out) and described["classes"] == list(CLASSES)
    assert {name: split["samples"] for name, split in described["splits"].items()} == {"train": 6, "val": 3}


def test_a_set_at_a_url_is_indexed_described_verified_and_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "kdx"))
    assert _synthetic(tmp_path / "shapes") == 0
    url = f"file://{tmp_path}/shapes"
    capsys.readouterr()
    assert _run("index", url) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/kdx/indices/shapes-")
    assert _run("info", url, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["folder"] == url and described["classes"] == list(CLASSES)
    assert _run("verify", url) == 0 and url in capsys.readouterr().out
    assert _run("subset", url, tmp_path / "few", "--pairs", 4) == 0
    assert _run("subset", tmp_path / "few", url, "--pairs", 2) == 2
    assert "is a URL" in capsys.readouterr().err


def test_a_set_is_replaced_only_with_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _synthetic(tmp_path / "a") == 0
    before = (tmp_path / "a" / "train-00000.tar").read_bytes()
    assert _synthetic(tmp_path / "a", "--seed", 1) == 2
    assert "remedy: choose another path, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "a" / "train-00000.tar").read_bytes() == before
    assert _synthetic(tmp_path / "a", "--seed", 1, "--overwrite") == 0
    assert (tmp_path / "a" / "train-00000.tar").read_bytes() != before


def test_a_subset_says_how_many_captions_are_wrong(
    tmp_path: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "all", "train", make_samples(20))
    out = tmp_path / "few"
    assert _run("subset", tmp_path / "all", out, "--pairs", 15, "--wrong-captions", 0.5) == 0
    right = {sample.key: sample.captions for sample in open_split(tmp_path / "all", "train")}
    wrong = sum(sample.captions != right[sample.key] for sample in open_split(out, "train"))
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n" and 0 < wrong < 15
    assert shown.err == f"15 samples, {wrong} of them with another sample's caption\n"


def test_bad_samples_are_named_with_their_number(
    tmp_path: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, "train", make_samples(6))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")  # labels are 0, 1, 2
    assert _run("info", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 4 samples in 1 shards, 4 labelled"
    assert lines[2:5] == [
        "  2 skipped: 2 × .cls is 2, there are only 2 classes",
        "    s0002: .cls is 2, there are only 2 classes",
        "    s0005: .cls is 2, there are only 2 classes",
    ]


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (("synthetic", "OUT", "--train", "0"), 2, "'--train'"),
        (("synthetic", "OUT", "--val", "-1"), 2, "'--val'"),
        (("synthetic", "OUT", "--image-size", "8"), 2, "'--image-size'"),
        (("synthetic", "OUT", "--seed", "-1"), 2, "'--seed'"),
        (("synthetic",), 2, "Missing argument 'OUT'"),
        (("subset", "SET", "OUT"), 2, "'--pairs'"),
        (("subset", "SET", "OUT", "--pairs", "5"), 2, "5 pairs of a set that has 4"),
        (("subset", "SET", "OUT", "--pairs", "2", "--wrong-captions", "1"), 2, "'--wrong-captions'"),
        (("subset", "SET", "SET", "--pairs", "2"), 2, "holds a set already"),
        (("subset", "OUT", "OUT2", "--pairs", "2"), 4, "there are no train shards"),
        (("info", "OUT"), 4, "there are no train shards"),
        (("shards",), 2, "No such command"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_made(
    tmp_path: Path,
    make_samples: MakeSamples,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    code: int,
    what: str,
) -> None:
    write_shards(tmp_path / "SET", "train", make_samples(4))
    paths = {name: str(tmp_path / name) for name in ("SET", "OUT", "OUT2")}
    assert _run(*(paths.get(arg, arg) for arg in args)) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and what in shown.err and not shown.out
    assert [entry.name for entry in tmp_path.iterdir()] == ["SET"]


def test_a_damaged_shard_is_bad_data_by_name(
    tmp_path: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, "val", make_samples(4))
    shard = tmp_path / "val-00000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    assert _run("info", tmp_path) == 4
    assert f"error: {shard}: " in capsys.readouterr().err


def test_a_folder_of_photos_becomes_a_set_by_the_command_that_its_refusal_names(
    tmp_path: Path,
    make_photo: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(20):
        (Path("photos") / f"{number}.jpg").write_bytes(make_photo(number))
    lines = ["file,caption", *(f"{number}.jpg,a photo" for number in range(20)), "20.jpg,one too many"]
    Path("captions.csv").write_text("\n".join(lines))
    assert _run("info", "photos") == 4
    command = "kdx data convert photos --captions captions.csv --val 0.2 --out shards"
    assert f"remedy: pack the pictures into shards first: {command}" in capsys.readouterr().err
    assert _run(*command.split()[2:]) == 0
    shown = capsys.readouterr()
    assert shown.out == "shards\n" and "next: kdx data info shards" in shown.err
    assert "1 left out; all are named in shards/skipped.jsonl\n  20.jpg: there is no such file" in shown.err
    held_out = len(open_split(Path("shards"), "val"))
    assert 0 < held_out < 10 and len(open_split(Path("shards"), "train")) == 20 - held_out
    assert _run("verify", "shards") == 0


def test_verify_names_what_changed(
    tmp_path: Path, make_photo: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat/1", "dog/2"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(make_photo(1))
    out = tmp_path / "shards"
    assert _run("convert", tmp_path / "photos", "--out", out) == 0
    assert (out / "classes.txt").read_text() == "cat\ndog\n"
    assert "nothing is held out" in capsys.readouterr().err
    with (out / "train-00000.tar").open("r+b") as shard:
        shard.seek(700)
        shard.write(b"!")
    (out / "val-00000.tar").write_bytes(b"")
    assert _run("verify", out) == 4
    said = capsys.readouterr().err
    assert "changed: train-00000.tar" in said and "not in SHA256SUMS: val-00000.tar" in said


def test_info_names_duplicates_and_broken_images_and_draws_a_sheet(
    tmp_path: Path, make_photo: Callable[..., bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    images = [make_photo(1, size=200), make_photo(2, size=200)[:-900], make_photo(1, size=200)]
    write_shards(tmp_path, "train", [Sample(f"t{n}", image, ("x",), None) for n, image in enumerate(images)])
    write_shards(tmp_path, "val", [Sample("v", images[0], ("x y",), None)])
    assert _run("info", tmp_path, "--decode", "--sheet", tmp_path / "sheet.html") == 0
    said = capsys.readouterr().out
    assert (
        "2 duplicates of another image; 1 held-out images are in train too\n    train/t0 = train/t2 = val/v"
        in said
    )
    assert "1 broken:\n    train/t1: cannot be decoded: " in said
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8").count("<img ") == 3
    assert _run("info", tmp_path, "--sheet", tmp_path / "sheet.png") == 2


def test_index_tells_what_it_holds_and_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_samples: MakeSamples
) -> None:
    write_shards(tmp_path / "set", "train", make_samples(6, [("a", "b")] * 6), samples_per_shard=4)
    write_shards(tmp_path / "set", "val", make_samples(2))
    assert _run("index", tmp_path / "set") == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'set'}\n" and "8 samples with 14 captions in 3 shards" in shown.err
    assert len(list((tmp_path / "set").glob("*.index.safetensors"))) == 3
    for path in (tmp_path / "set").glob("*.index.safetensors"):
        path.unlink()
    assert _run("index", tmp_path / "set", "--index-dir", tmp_path / "elsewhere") == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").rglob("*.index.safetensors"))) == 3
    assert _run("index", tmp_path / "nothing") == 4


def test_verify_compares_with_the_index_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_samples: MakeSamples
) -> None:
    write_shards(tmp_path, "train", make_samples(4), samples_per_shard=2)
    assert _run("verify", tmp_path) == 4  # there is nothing to compare with
    assert _run("index", tmp_path) == 0
    assert _run("verify", tmp_path) == 0
    shard = tmp_path / "train-00000.tar"
    times, content = shard.stat(), shard.read_bytes()
    shard.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk that forgets a bit
    index = tmp_path / "train-00001.index.safetensors"
    index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    capsys.readouterr()
    assert _run("verify", tmp_path) == 4
    said = capsys.readouterr().err
    assert "changed: train-00000.tar" in said and f"damaged index, to be removed: {index.name}" in said


def test_compressed_shards_beside_the_others_are_named(
    tmp_path: Path, make_samples: MakeSamples, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "train", "train", make_samples(4))
    assert _run("info", tmp_path) == 0 and "compressed" not in capsys.readouterr().out
    packed = [tmp_path / "train-00001.tgz", tmp_path / "train/train-00002.tar.gz"]
    for path in packed:
        path.touch()
    assert _run("info", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if str(packed[0]) in line and "and 1 more" in line and "unpack" in line]
    assert _run("info", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["compressed"] == [str(path) for path in packed]
