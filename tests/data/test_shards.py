"""Facts of kdx/data/shards.py and its parts: what is written reads back, and what is bad is named."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from kdx.core.errors import DataError, UsageError
from kdx.data.sample import key_digest
from kdx.data.shards import (
    Sample,
    open_split,
    read_classes,
    read_templates,
    shard_paths,
    splits_there,
    write_shards,
)
from kdx.models.clip_vocabulary import clip_tokenizer

MakeSamples = Callable[..., list[Sample]]
MakePhoto = Callable[..., bytes]
WriteTar = Callable[[Path, list[tuple[str, bytes]]], None]

JPEG = b"\xff\xd8\xff, a file that is never decoded"


def _good(count: int) -> list[tuple[str, bytes]]:
    """Members of `count` samples that are as they should be."""
    return [
        member for n in range(count) for member in ((f"good{n}.jpg", JPEG), (f"good{n}.txt", b"a good one"))
    ]


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Written and read back


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_samples_of_several_shards_read_back_equal(tmp_path: Path, make_photo: MakePhoto, kind: str) -> None:
    captions = [("one",), ("first", "second", "third"), ("naïve 🙂 你好",)]
    samples = [
        Sample(f"a/b{n:02d}", make_photo(n, kind=kind), captions[n % 3], None if n % 4 == 3 else n % 4)
        for n in range(10)
    ]
    assert write_shards(tmp_path, "train", samples, samples_per_shard=4) == 10
    assert _names(tmp_path) == [f"train-{n:05d}.tar" for n in range(3)]
    opened = open_split(tmp_path, "train")
    assert list(opened) == samples
    assert [opened[-1], *opened[2:4]] == [samples[-1], *samples[2:4]]
    assert opened.keys == [sample.key for sample in samples]
    assert [opened.captions(n) for n in range(10)] == [sample.captions for sample in samples]
    assert [opened.label(n) for n in range(10)] == [sample.label for sample in samples]
    assert [shard.rows for shard in opened.shards] == [range(4), range(4, 8), range(8, 10)]
    assert opened.skipped == [] and opened.classes is None


@pytest.mark.parametrize(
    ("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("AVIF", "avif")]
)
def test_members_are_named_by_what_they_hold(
    tmp_path: Path, make_photo: MakePhoto, kind: str, extension: str
) -> None:
    write_shards(tmp_path, "val", [Sample("a/b", make_photo(0, kind=kind), ("x", "y"), 7)])
    with tarfile.open(tmp_path / "val-00000.tar") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert content["a/b.txt"] == b"x" and content["a/b.cls"] == b"7"
    assert json.loads(content["a/b.json"]) == {"captions": ["x", "y"]}
    assert content.keys() == {"a/b.txt", "a/b.cls", "a/b.json", f"a/b.{extension}"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sample_reads_back_or_is_refused_when_it_is_written(data: st.DataObject) -> None:
    captions = tuple(data.draw(st.lists(st.text(max_size=8) | st.just("\ufeff"), max_size=3)))
    sample = Sample(data.draw(st.text(max_size=6)), JPEG, captions, data.draw(st.none() | st.integers(0, 99)))
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_shards(Path(folder), "train", [sample])
        except DataError:
            assert _names(Path(folder)) == []
            return
        (read,) = open_split(Path(folder), "train", need_captions=False)
    assert (read.key, read.image, read.label) == (sample.key, sample.image, sample.label)
    assert [text.strip("\ufeff \n") for text in read.captions] == [
        text.strip().strip("\ufeff \n") for text in captions
    ]


def test_equal_samples_give_equal_bytes_and_digests(tmp_path: Path, make_samples: MakeSamples) -> None:
    for name, count in (("one", 5), ("two", 5), ("three", 4)):
        write_shards(tmp_path / name, "train", make_samples(count))
    shards = [(tmp_path / name / "train-00000.tar").read_bytes() for name in ("one", "two", "three")]
    assert shards[0] == shards[1] != shards[2]
    one, two, three = (open_split(tmp_path / name, "train").digest for name in ("one", "two", "three"))
    assert one == two != three


def test_columns_say_what_the_samples_say(tmp_path: Path, make_samples: MakeSamples) -> None:
    captions = [("a red cat", "naïve " * 90), ("x",), ("one", "two", "three")]
    write_shards(tmp_path, "train", make_samples(3, captions), samples_per_shard=2)
    opened = pickle.loads(pickle.dumps(open_split(tmp_path, "train")))
    assert opened.key_digests.dtype == np.uint64
    assert opened.key_digests.tolist() == [key_digest(key) for key in opened.keys]
    assert opened.caption_counts.tolist() == [opened.num_captions(row) for row in range(3)] == [2, 1, 3]
    digests = [hashlib.sha256((tmp_path / f"train-0000{n}.tar").read_bytes()).hexdigest() for n in range(2)]
    assert [shard.digest for shard in opened.shards] == digests
    for row, texts in enumerate(captions):
        for number, text in enumerate(texts):
            for length in (2, 5, 76, 77, 78, 200):
                tokens = opened.tokens(row, number, length)
                assert tokens.dtype == np.uint16
                assert tokens.tolist() == clip_tokenizer().encode(text.strip(), length)


def test_threads_read_the_same_samples(tmp_path: Path, make_samples: MakeSamples) -> None:
    samples = make_samples(40)
    write_shards(tmp_path, "train", samples, samples_per_shard=9)
    opened = open_split(tmp_path, "train")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(opened.__getitem__, range(40))) == samples


def test_a_set_with_classes_alone_or_captions_alone_is_written_and_opened(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", [Sample("a", JPEG, ("x",), None)])
    write_shards(tmp_path, "val", [Sample("a", JPEG, (), 3)])
    assert list(open_split(tmp_path, "train")) == [Sample("a", JPEG, ("x",), None)]
    assert list(open_split(tmp_path, "val", need_captions=False)) == [Sample("a", JPEG, (), 3)]


# Refused when written


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        (Sample(".a", JPEG, ("x",), None), "key"),
        (Sample("\udc80", JPEG, ("x",), None), "key"),
        (Sample("../a", JPEG, ("x",), None), "key"),
        (Sample("/a", JPEG, ("x",), None), "key"),
        (Sample("k" * 300, JPEG, ("x",), None), "tar header"),
        (Sample("a", JPEG, (), None), "caption"),
        (Sample("a", JPEG, ("x", " \n"), None), "caption"),
        (Sample("a", JPEG, ("\ufeff",), None), "caption"),
        (Sample("a", JPEG, ("\ud800",), None), "Unicode"),
        (Sample("a", JPEG, ("x" * (2**20 + 1),), None), ".txt"),
        (Sample("a", JPEG, ("x",) * 2**18, None), ".json"),
        (Sample("a", JPEG, ("x",), -1), "-1"),
        (Sample("a", JPEG, ("x",), 10**9), "1000000000"),
        (Sample("a", b"GIF89a", ("x",), None), "JPEG"),
        (Sample("good", JPEG, ("x",), None), "twice"),
    ],
)
def test_a_sample_that_could_not_be_read_back_is_refused_and_nothing_is_left(
    tmp_path: Path, sample: Sample, what: str
) -> None:
    good = Sample("good", JPEG, ("x",), 0)
    with pytest.raises(DataError) as error:
        write_shards(tmp_path, "train", [good, sample])
    assert what in error.value.what and str(error.value.where).startswith(sample.key)
    assert _names(tmp_path) == []


def test_test_shards_are_val_where_there_is_no_other_and_a_split_of_their_own_beside_it(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    test, val = make_samples(5)[:2], make_samples(5)[2:]
    write_shards(tmp_path, "test", test)
    assert open_split(tmp_path, "val").keys == open_split(tmp_path, "test").keys
    assert list(splits_there(tmp_path)) == ["val"]
    (tmp_path / "both").mkdir()
    for split, samples in (("val", val), ("test", test)):
        write_shards(tmp_path / "both", split, samples)
        assert open_split(tmp_path / "both", split).keys == [sample.key for sample in samples]
    assert list(splits_there(tmp_path / "both")) == ["val", "test"]


def test_an_error_between_shards_leaves_none(tmp_path: Path, make_samples: MakeSamples) -> None:
    def failing() -> Iterator[Sample]:
        yield from make_samples(5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_shards(tmp_path, "train", failing(), samples_per_shard=2)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("there", ["val", "test"])
def test_a_split_that_is_there_is_not_written_over(
    tmp_path: Path, make_samples: MakeSamples, there: str
) -> None:
    (tmp_path / f"{there}-00000.tar").write_bytes(b"precious")
    with pytest.raises(UsageError) as error:
        write_shards(tmp_path, "val", make_samples(1))
    assert error.value.where == str(tmp_path)
    assert (tmp_path / f"{there}-00000.tar").read_bytes() == b"precious"


# Shards of other tools


def test_a_sample_is_all_members_with_its_key_in_any_order(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(
        tmp_path / "train-0.tar",
        [
            ("./a/one.txt", b"\xef\xbb\xbf one \r\n"),
            ("two.JPG", JPEG),
            ("a/one.webp", JPEG + b"1"),
            ("two.json", b'{"captions": [" x ", "y"], "url": "here"}'),
            ("a/one.json", b'{"url": "there"}'),  # says nothing about captions
            ("two.embedding.npy", b"other tools' business"),
            ("two.mask.png", JPEG),
            ("two.de.txt", b"zwei"),
            ("README", b"no extension"),
            ("two.cls", b" 3\n"),
        ],
    )
    opened = open_split(tmp_path, "train")
    assert list(opened) == [
        Sample("a/one", JPEG + b"1", ("one",), None),
        Sample("two", JPEG, ("x", "y"), 3),
    ]
    assert opened.others == {"further part of a sample": 2, ".npy": 1, "file without extension": 1}


@pytest.mark.parametrize("beside", [True, False])
def test_a_sample_may_have_dots_in_its_name(tmp_path: Path, write_tar: WriteTar, beside: bool) -> None:
    """WebDataset's key ends at the first dot, so that nothing would be left of `img_1.5mm.jpg`."""
    other = [("a.b/img_1.jpg", JPEG), ("a.b/img_1.txt", b"without a dot")] if beside else []
    dotted = [("a.b/img_1.5mm.JPG", JPEG), ("a.b/img_1.5mm.txt", b"dots"), ("a.b/img_1.5mm.cls", b"2")]
    write_tar(tmp_path / "train-0.tar", [*other, *dotted])
    opened = open_split(tmp_path, "train")
    assert opened[-1] == Sample("a.b/img_1.5mm", JPEG, ("dots",), 2)
    assert len(opened) == 1 + beside and opened.skipped == [] and opened.others == {}


def test_an_image_that_is_no_samples_further_part_is_named_if_it_has_no_caption(
    tmp_path: Path, write_tar: WriteTar
) -> None:
    write_tar(tmp_path / "train-0.tar", [*_good(9), ("img_1.5mm.jpg", JPEG)])
    assert open_split(tmp_path, "train").skipped == [("img_1.5mm", "no caption (.txt)")]


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_whatever_lies_in_a_tar_is_used_or_counted(tmp_path: Path, format_: int) -> None:
    """Long names come as GNU longnames or pax headers, and are read in full."""
    folder = "/".join(["deep" * 20] * (3 if format_ != tarfile.USTAR_FORMAT else 1))
    with tarfile.open(tmp_path / "train-0.tar", "w", format=format_) as archive:
        for name, content in (
            (f"{folder}/ünder.jpg", JPEG),
            (f"{folder}/ünder.txt", b"x"),
            (f"{folder}/._ünder.jpg", b"AppleDouble"),
            (".DS_Store", b"x"),
            ("list.csv", b"x"),
            ("photo.HEIC", b"x"),
            ("readme", b"x"),
            ("trailing.", b"x"),
        ):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for name, kind in (("dir", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "list.csv" if kind != tarfile.DIRTYPE else ""
            archive.addfile(header)
        header = tarfile.TarInfo("pipe.jpg")
        header.type = tarfile.FIFOTYPE
        archive.addfile(header)
    opened = open_split(tmp_path, "train")
    assert opened.keys == [f"{folder}/ünder"] and opened.skipped == []
    assert opened.others == {
        "hidden file": 2,
        "link": 2,
        "file without extension": 2,
        ".csv": 1,
        ".heic": 1,
        "device": 1,
    }


def test_names_that_are_not_utf8_stay_apart_and_can_be_printed(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "train-0.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT
    ) as archive:
        for name in ("caf\xe9", "caf\xe8"):
            for extension, content in (("jpg", JPEG), ("txt", b"x")):
                header = tarfile.TarInfo(f"{name}.{extension}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    assert open_split(tmp_path, "train").keys == ["caf\\xe9", "caf\\xe8"]


def test_tars_that_were_appended_to_a_tar_are_read_too(tmp_path: Path, write_tar: WriteTar) -> None:
    """`cat a.tar >> b.tar`: after the end of the first archive another one begins."""
    path, parts = tmp_path / "train-0.tar", []
    for number in range(3):
        write_tar(path, [(f"s{number}.jpg", JPEG + b"%d" % number), (f"s{number}.txt", b"%d" % number)])
        parts.append(path.read_bytes())
    path.write_bytes(parts[0] + bytes(3 * 2**20) + parts[1] + parts[2])
    opened = open_split(tmp_path, "train")
    assert opened.keys == ["s0", "s1", "s2"]
    assert [sample.image for sample in opened] == [JPEG + b"%d" % number for number in range(3)]


@pytest.mark.parametrize("more", [b"x" * 2000, gzip.compress(b"x" * 2000, mtime=0)])
def test_what_follows_the_end_of_a_tar_and_is_none_is_refused(
    tmp_path: Path, write_tar: WriteTar, more: bytes
) -> None:
    path = tmp_path / "train-0.tar"
    write_tar(path, _good(2))
    end = path.stat().st_size
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(DataError) as error:
        open_split(tmp_path, "train")
    assert error.value.where == str(path) and str(end) in error.value.what


def test_without_captions_a_set_opens_for_what_needs_none(tmp_path: Path, write_tar: WriteTar) -> None:
    members = [(f"{n}.{e}", c) for n in range(4) for e, c in (("jpg", JPEG), ("cls", b"%d" % (n % 2)))]
    write_tar(tmp_path / "train-0.tar", [*members, ("4.jpg", JPEG), ("4.txt", b" "), ("5.jpg", JPEG)])
    opened = open_split(tmp_path, "train", need_captions=False)
    assert [sample.captions for sample in opened] == [()] * 6 and opened.skipped == []
    assert [sample.label for sample in opened] == [0, 1, 0, 1, None, None]
    (tmp_path / "train-0.tar").unlink()
    write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError) as error:
        open_split(tmp_path, "train")
    assert error.value.where == str(tmp_path) and "caption" in error.value.what
    assert "evaluation" in str(error.value.remedy)


def test_a_key_that_looks_like_one_made_unique_is_made_unique_too(
    tmp_path: Path, write_tar: WriteTar
) -> None:
    for number, key in enumerate(("train-1/a", "a", "a")):
        write_tar(tmp_path / f"train-{number}.tar", [(f"{key}.jpg", JPEG), (f"{key}.txt", b"x")])
    assert open_split(tmp_path, "train").keys == ["train-1/a", "a", "train-2/a"]
    (tmp_path / "train-2.tar").rename(tmp_path / "train-1x.tar")
    write_tar(tmp_path / "train-1.tar", [("a.jpg", JPEG), ("a.txt", b"x"), ("b.jpg", JPEG), ("b.txt", b"x")])
    assert len(set(open_split(tmp_path, "train").keys)) == 4


def test_a_key_that_an_earlier_shard_has_gets_its_shards_name(tmp_path: Path, write_tar: WriteTar) -> None:
    for number in range(3):
        write_tar(tmp_path / f"train-{number}.tar", [("a.jpg", JPEG), ("a.txt", b"%d" % number)])
    opened = open_split(tmp_path, "train")
    assert opened.keys == ["a", "train-1/a", "train-2/a"]
    assert [sample.captions for sample in opened] == [("0",), ("1",), ("2",)]


def test_a_key_that_occurs_again_in_its_shard_is_one_bad_sample(tmp_path: Path, write_tar: WriteTar) -> None:
    again = [("a.jpg", JPEG), ("a.txt", b"one"), ("a.jpg", JPEG), ("a.txt", b"two")]
    write_tar(tmp_path / "train-0.tar", _good(9) + again)
    opened = open_split(tmp_path, "train")
    assert len(opened) == 9 and opened.skipped == [("a", "more than one image")]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"jpg": JPEG}, "no caption (.txt)"),
        ({"jpg": JPEG, "txt": b" \n"}, "the caption is empty"),
        ({"jpg": JPEG, "txt": b"caf\xe9"}, "the caption is not UTF-8"),
        ({"jpg": JPEG, "txt": b"x" * (2**20 + 1)}, "its .txt is larger than 1048576 bytes"),
        ({"jpg": JPEG, "txt": b"x", "TXT": b"y"}, "more than one .txt"),
        ({"txt": b"x"}, "no image (jpg, jpeg, jfif, png, webp, avif)"),
        ({"gif": JPEG, "txt": b"x"}, "no image (jpg, jpeg, jfif, png, webp, avif)"),
        ({"jpg": JPEG, "png": JPEG, "txt": b"x"}, "more than one image"),
        ({"jpg": b"", "txt": b"x"}, "the image has 0 bytes"),
        ({"jpg": JPEG, "txt": b"x", "json": b"{"}, "its .json does not parse"),
        ({"jpg": JPEG, "txt": b"x", "json": b"[" * 100_000}, "its .json does not parse"),
        ({"jpg": JPEG, "json": b'{"captions": "x"}'}, "`captions` in its .json is not a list of strings"),
        ({"jpg": JPEG, "json": b'{"captions": []}'}, "`captions` in its .json is not a list of strings"),
        ({"jpg": JPEG, "json": b'{"captions": ["x", " "]}'}, "a caption in its .json is empty"),
        ({"jpg": JPEG, "json": b'{"captions": ["\\ud800"]}'}, "a caption in its .json is not Unicode text"),
        ({"jpg": JPEG, "txt": b"x", "cls": b"\xff"}, ".cls is not UTF-8"),
        ({"jpg": JPEG, "txt": b"x", "cls": b"3"}, ".cls is 3, there are only 3 classes"),
        ({"jpg": JPEG, "txt": b"x", "cls": b"cow"}, ".cls is 'cow', neither an integer nor a known class"),
        ({"jpg": JPEG, "txt": b"x", "cls": b"-1"}, ".cls is '-1', neither an integer nor a known class"),
    ],
)
def test_a_bad_sample_is_skipped_and_named_with_its_reason(
    tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], reason: str
) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n")
    good = _good(12)
    bad = [(f"bad.{extension}", content) for extension, content in members.items()]
    write_tar(tmp_path / "train-0.tar", good[:10] + bad + good[10:])
    opened = open_split(tmp_path, "train")
    assert opened.skipped == [("bad", reason)]
    assert opened.keys == [f"good{n}" for n in range(12)]
    assert opened.shards[0].rows == range(12)


def test_too_many_bad_samples_are_an_error_that_names_some(tmp_path: Path, write_tar: WriteTar) -> None:
    bad = [(f"bad{n}.jpg", JPEG) for n in range(5)]
    write_tar(tmp_path / "train-0.tar", _good(5) + bad)
    with pytest.raises(DataError) as error:
        open_split(tmp_path, "train")
    assert all(part in error.value.what for part in ("5 of 10", "bad0", "bad2", "…"))
    assert error.value.where == str(tmp_path)
    assert len(open_split(tmp_path, "train", min_good_share=0.5)) == 5


def test_shards_without_samples_are_an_error(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(tmp_path / "train-0.tar", [("README", b"hello")])
    with pytest.raises(DataError) as error:
        open_split(tmp_path, "train")
    assert "1 × file without extension" in error.value.what


# Damaged tars


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    path = tmp_path / "train-0.tar"
    write_tar(path, _good(2))
    whole = path.read_bytes()
    end = 4 * (512 + 512)  # header and content of four members, then zero blocks
    for cut in range(0, end + 512, 128):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError) as error:
            open_split(tmp_path, "train")
        assert error.value.where == str(path)
    path.write_bytes(whole[: end + 512])
    assert len(open_split(tmp_path, "train")) == 2


@pytest.mark.parametrize("header", [1, 2, 3])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, write_tar: WriteTar, header: int) -> None:
    path = tmp_path / "train-0.tar"
    write_tar(path, _good(2))
    content = bytearray(path.read_bytes())
    content[header * 1024 + 3] ^= 1  # a letter of the member's name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        open_split(tmp_path, "train")
    assert error.value.where == str(path) and error.value.what.endswith(f"byte {header * 1024}")


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"x" * 2000, mtime=0), b"\x00" * 100])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-0.tar").write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_split(tmp_path, "train")
    assert caught.value.where == str(tmp_path / "train-0.tar") and caught.value.remedy


@pytest.mark.parametrize("same_size", [True, False])
def test_a_shard_that_changes_after_it_was_opened_is_noticed(
    tmp_path: Path, make_samples: MakeSamples, same_size: bool
) -> None:
    write_shards(tmp_path, "train", make_samples(3))
    opened = open_split(tmp_path, "train")
    path = tmp_path / "train-00000.tar"
    size, modified = path.stat().st_size, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"\x00" * (size if same_size else size + 512))
    os.utime(path, ns=(modified, modified + 1))
    with pytest.raises(DataError) as error:
        opened[1]
    assert error.value.where == str(path)


# Splits, classes, templates


def test_the_val_split_may_be_called_test(tmp_path: Path, make_samples: MakeSamples) -> None:
    write_shards(tmp_path, "val", make_samples(2))
    (tmp_path / "val-00000.tar").rename(tmp_path / "test-00000.tar")
    assert len(open_split(tmp_path, "val")) == 2
    write_shards(tmp_path / "more", "val", make_samples(3))
    (tmp_path / "more" / "val-00000.tar").rename(tmp_path / "val-00000.tar")
    assert shard_paths(tmp_path, "val") == [tmp_path / "val-00000.tar"]


def test_without_shards_the_names_to_give_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_split(tmp_path, "train")
    assert caught.value.remedy == "name the shards train-00000.tar, train-00001.tar …"
    (tmp_path / "train-00000.tar.gz").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_split(tmp_path, "train")
    assert "unpack train-00000.tar.gz" in str(caught.value.remedy)


def test_a_folder_of_pictures_is_told_how_to_become_a_set(tmp_path: Path) -> None:
    (tmp_path / "cat.JPG").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_split(tmp_path, "train")
    assert caught.value.where == str(tmp_path)
    assert f"kdx data convert {tmp_path} --captions captions.csv --val 0.2 --out shards" in str(
        caught.value.remedy
    )
    with pytest.raises(DataError) as caught:
        open_split(tmp_path / "nowhere", "train")
    assert "no such folder" in str(caught.value.remedy)


def test_an_unknown_split_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        open_split(tmp_path, "valid")
    assert "'valid'" in error.value.what and "train" in str(error.value.remedy)


def test_class_names_in_the_shards_are_numbered_alike_in_all_splits(
    tmp_path: Path, write_tar: WriteTar
) -> None:
    for split, names in (("train", ("dog", "cat")), ("val", ("bird", "dog"))):
        members = [
            (f"{n}.{e}", content)
            for n, name in enumerate(names)
            for e, content in (("jpg", JPEG), ("txt", b"x"), ("cls", name.encode()))
        ]
        write_tar(tmp_path / f"{split}-0.tar", members)
    train, val = open_split(tmp_path, "train"), open_split(tmp_path, "val")
    assert train.classes == val.classes == read_classes(tmp_path) == ["bird", "cat", "dog"]
    assert [sample.label for sample in train] == [2, 1] and [sample.label for sample in val] == [0, 2]


def test_a_name_of_classes_txt_counts_before_its_number(tmp_path: Path, write_tar: WriteTar) -> None:
    (tmp_path / "classes.txt").write_text("2\n1\n0\n")
    write_tar(tmp_path / "train-0.tar", [("a.jpg", JPEG), ("a.txt", b"x"), ("a.cls", b"2")])
    assert open_split(tmp_path, "train").label(0) == 0


def test_two_classes_may_have_one_name_which_then_says_too_little(
    tmp_path: Path, write_tar: WriteTar
) -> None:
    (tmp_path / "classes.txt").write_text("missile\ncat\nmissile\n")
    members = [
        (f"{n}.{e}", content)
        for n, cls in enumerate((b"2", b"0", b"missile", b"cat"))
        for e, content in (("jpg", JPEG), ("txt", b"x"), ("cls", cls))
    ]
    write_tar(tmp_path / "train-0.tar", members)
    samples = open_split(tmp_path, "train", min_good_share=0)
    assert samples.classes == ["missile", "cat", "missile"]
    assert [sample.label for sample in samples] == [2, 0, 1] and [key for key, _ in samples.skipped] == ["2"]


def test_labels_that_are_integers_have_no_names_of_their_own(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    write_shards(tmp_path, "train", make_samples(6))
    assert read_classes(tmp_path) is None
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\nfish\r\n")
    assert open_split(tmp_path, "train").classes == ["cat", "dog", "fish"]


@pytest.mark.parametrize(
    "content",
    [b"cat\n\ndog\n", b"", b"caf\xe9\n"],
    ids=["gap", "empty", "latin-1"],
)
def test_malformed_classes_are_refused_by_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_classes(tmp_path)
    assert error.value.where == str(tmp_path / "classes.txt")


def test_templates_are_lines_with_a_place_for_the_class(tmp_path: Path) -> None:
    assert read_templates(tmp_path) is None
    path = tmp_path / "templates.txt"
    path.write_text("a {}\n{} and {}.\n")
    assert read_templates(tmp_path) == ["a {}", "{} and {}."]
    for wrong in ("a photo", "a {0}", "a {"):
        path.write_text(f"a {{}}\n{wrong}\n")
        with pytest.raises(DataError) as error:
            read_templates(tmp_path)
        assert error.value.where == str(path) and repr(wrong) in error.value.what
