"""Facts of data/prepare/url_list.py: the columns are seen from the rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.data.prepare.url_list import UrlList, list_files, read_text_list

ONE, TWO = "http://a.example/1.jpg", "https://b.example/x,y.png?w=1"


def read(path: Path, text: str, url: str | None = None, caption: str | None = None) -> UrlList:
    path.write_text(text, encoding="utf-8")
    return read_text_list(path, url, caption)


def test_googles_files_are_told_apart_by_their_columns(tmp_path: Path) -> None:
    cc3m = read(tmp_path / "Train_GCC-training.tsv", f'a " very " typical bus\t{ONE}\nsierra\t{TWO}\n')
    cc12m = read(tmp_path / "cc12m.tsv", f"{ONE}\tMetal <PERSON>, sign\n{TWO}\tfoo\n")
    assert (cc3m.format, cc3m.header, cc3m.url, cc3m.caption) == ("tab", False, 1, 0)
    assert (cc12m.format, cc12m.header, cc12m.url, cc12m.caption) == ("tab", False, 0, 1)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", f"caption\turl\none\t{ONE}\n", ("tab", True, 1, 0)),
        ("b.csv", f'url,caption\n"{TWO}","a, b"\n', ("comma", True, 0, 1)),
        ("c.csv", f"id,URL,WIDTH,TEXT\n7,{ONE},300,words\n", ("comma", True, 1, 3)),
        ("d.csv", f"{ONE},words of it\n", ("comma", False, 0, 1)),
        ("e.csv", f"url\n{ONE}\n", ("comma", True, 0, None)),
        ("f.txt", f"{ONE}\n{TWO}\n", ("lines", False, 0, None)),
        ("g.txt", f"\ufeff{ONE}\r\n\r\n{TWO}\r\n", ("lines", False, 0, None)),
        ("h.csv", f'page_url,image_url,title\n"{TWO}",{ONE},words\n', ("comma", True, 1, 2)),
    ],
)
def test_a_list_in_any_table_is_understood(
    tmp_path: Path, name: str, text: str, expected: tuple[str, bool, int, int | None]
) -> None:
    found = read(tmp_path / name, text)
    assert (found.format, found.header, found.url, found.caption) == expected


def test_what_is_in_doubt_is_asked_for_and_obeyed(tmp_path: Path) -> None:
    text = f'a,b,words,more\n{ONE},"{TWO}",x,y\n'
    with pytest.raises(DataError, match="2 of its columns hold URLs; there are a, b, words, more") as caught:
        read(tmp_path / "a.csv", text)
    assert caught.value.remedy == "name that of the images with --url-column"
    with pytest.raises(DataError, match="plainly the captions; there are a, b, words, more"):
        read(tmp_path / "a.csv", text, "b")
    found = read(tmp_path / "a.csv", text, "b", "4")
    assert (found.url, found.caption) == (1, 3)
    with pytest.raises(UsageError, match="there is no column 'c'; there are a, b, words, more"):
        read(tmp_path / "a.csv", text, "c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"caption\turl\n", "holds no URL"),
        (b"a.jpg\tone\nb.jpg\ttwo\n", "none of its columns holds URLs"),
        (f"caf\xe9\t{ONE}\n".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_what_is_no_list_of_urls_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_text_list(path, None, None)
    assert caught.value.where == str(path) and caught.value.remedy


def test_a_list_that_is_not_there_or_packed_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such list"):
        list_files(tmp_path / "nowhere.tsv")
    with pytest.raises(DataError, match=r"holds no \*\.parquet"):
        list_files(tmp_path)
    (tmp_path / "cc12m.tsv.gz").write_bytes(b"\x1f\x8b\x08rest")
    with pytest.raises(DataError, match="is compressed") as caught:
        list_files(tmp_path / "cc12m.tsv.gz")
    assert caught.value.remedy == "unpack it first: gunzip -k cc12m.tsv.gz"


def test_the_parts_of_a_folder_come_in_their_order(tmp_path: Path) -> None:
    for name in ("part-2.parquet", "part-1.parquet", "readme.md"):
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path)] == ["part-1.parquet", "part-2.parquet"]


@pytest.mark.parametrize("text", [f'"{ONE}', f'url,caption\n"{ONE}', "x" * 2**21])
def test_a_table_whose_rows_do_not_end_holds_no_url(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="holds no URL"):
        read(tmp_path / "a.csv", text)


def test_a_text_that_runs_over_the_rows_that_are_seen_is_no_matter(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", f'url,caption\n{ONE},a\n{TWO.replace(",", "")},"' + "b\n" * 200 + '"\n')
    assert (found.format, found.header, found.url, found.caption) == ("comma", True, 0, 1)
