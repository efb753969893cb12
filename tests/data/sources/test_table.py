"""Facts of kdx/data/sources/table.py and columns.py: which tables are read, and what is said of the others."""

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from kdx.core.errors import DataError, UsageError
from kdx.data.sources.columns import Wanted
from kdx.data.sources.source import Row
from kdx.data.sources.table import Table


def _read(file: Path, wanted: Wanted | None = None) -> tuple[list[Row], list[tuple[str, str]]]:
    left_out: list[tuple[str, str]] = []
    table = Table(file, [file.parent], wanted or Wanted())
    return list(table.rows(lambda image, reason: left_out.append((image, reason)))), left_out


def _table(folder: Path, text: str | bytes) -> Path:
    file = folder / "captions.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    "text",
    [
        "title\tfilepath\na dog, running\tcats/1.jpg\n",  # OpenCLIP's
        '\ufefffilepath,title\r\ncats/1.jpg,"a dog, running"\r\n',
        "Image Path;Caption\ncats/1.jpg;a dog, running\n",
        "image_name| comment_number| comment\ncats/1.jpg| 0| a dog, running\n",  # Flickr30k's
        'id,file_name,text,extra\n7,./cats/1.jpg,"a dog, running",x',
    ],
)
def test_usual_tables_are_read_without_options(tmp_path: Path, text: str) -> None:
    rows, left_out = _read(_table(tmp_path, text))
    assert rows == [Row("cats/1.jpg", "cats/1", ("a dog, running",))] and left_out == []


def test_classes_and_splits_are_read(tmp_path: Path) -> None:
    rows, _ = _read(_table(tmp_path, "path,label,split\n1.jpg,cat,test\n2.jpg,dog,\n"))
    assert rows == [Row("1.jpg", "1", (), "cat", "test"), Row("2.jpg", "2", (), "dog")]


def test_columns_with_other_names_are_named(tmp_path: Path) -> None:
    file = _table(tmp_path, "bild,wort\n1.jpg,Hund\n")
    rows, _ = _read(file, Wanted(image="bild", caption="wort"))
    assert rows == [Row("1.jpg", "1", ("Hund",))]
    with pytest.raises(DataError) as caught:
        _read(file)
    assert "its columns are: bild, wort" in caught.value.what and "--image-column" in str(caught.value.remedy)
    with pytest.raises(UsageError) as unknown:
        _read(file, Wanted(image="Bild", caption="wort"))
    assert "no column 'Bild'; its columns are: bild, wort" in unknown.value.what


def test_a_table_without_captions_shows_its_columns(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column is called as a caption .*its columns are: filepath, width"
    ):
        _read(_table(tmp_path, "filepath,width\n1.jpg,3\n"))


@pytest.mark.parametrize("text", ["url,caption\nhttps://a/1.jpg,a\n", "image,caption\nhttp://a/1.jpg,a\n"])
def test_urls_are_refused_and_the_command_that_fetches_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="URLs") as caught:
        _read(_table(tmp_path, text))
    assert "kdx data prepare" in str(caught.value.remedy)


@pytest.mark.parametrize(("encoding", "named"), [("cp1252", "WINDOWS-1252"), ("utf-16", "UTF-16")])
def test_another_encoding_is_said_with_the_command_that_changes_it(
    tmp_path: Path, encoding: str, named: str
) -> None:
    with pytest.raises(DataError, match="is not UTF-8 text") as caught:
        _read(_table(tmp_path, "filepath,title\n1.jpg,grün\n".encode(encoding)))
    assert f"iconv -f {named} -t UTF-8 captions.csv > captions-utf8.csv" in str(caught.value.remedy)


def test_lines_that_do_not_fit_the_header_are_named_with_their_number(tmp_path: Path) -> None:
    rows, left_out = _read(_table(tmp_path, "filepath,title\n1.jpg,a dog, running\n\n2.jpg\n,x\n3.jpg,c\n"))
    assert rows == [Row("3.jpg", "3", ("c",))]
    assert [image for image, _ in left_out] == [f"captions.csv, line {n}" for n in (2, 4, 5)]
    assert left_out[0][1] == "has 3 fields and not 2 (a comma in a caption? put the caption in quotes)"


@pytest.mark.parametrize("behind", [3, 2**20])
def test_an_open_quote_hides_no_rows(tmp_path: Path, behind: int) -> None:
    with pytest.raises(DataError, match="line 3") as caught:
        _read(_table(tmp_path, 'filepath,title\n1.jpg,a\n2.jpg,"b\n' + "x,y\n" * behind))
    assert "a quote in it is written twice" in str(caught.value.remedy) and "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ['filepath,"title', "filepath,title" + "x" * 2**21])
def test_a_header_that_is_none_is_said_in_one_line(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match=r"line 1|no column is called") as caught:
        _read(_table(tmp_path, header + "\n1.jpg,a\n"))
    assert "\n" not in str(caught.value)


def test_rows_between_two_quotes_that_do_not_belong_together_are_each_named(tmp_path: Path) -> None:
    rows, left_out = _read(
        _table(tmp_path, 'filepath,title\n1.jpg,"a\n2.jpg,b\n3.jpg,"c\n4.jpg,d\n5.jpg,"e, ""f""\ng"\n')
    )
    assert [row.image for row in rows] == ["4.jpg", "5.jpg"]
    assert rows[1].captions == ('e, "f"\ng',)
    reason = "lines 2 to 4 are no row: is a quote missing, or one too many?"
    assert left_out == [(f"captions.csv, line {n}", reason) for n in (2, 3, 4)]


def test_quotes_within_a_line_are_taken_as_they_come(tmp_path: Path) -> None:
    rows, left_out = _read(
        _table(tmp_path, 'filepath,title\n1.jpg,a "big" dog\n2.jpg,"a "big" dog"\n3.jpg,c\n')
    )
    assert [row.image for row in rows] == ["1.jpg", "2.jpg", "3.jpg"] and left_out == []
    assert rows[0].captions == ('a "big" dog',)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAME = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs"], exclude_characters="\ufeff"), min_size=1, max_size=9
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(NAME.map(lambda name: name + ".jpg"), TEXT), min_size=1, max_size=8),
    st.sampled_from(",\t;"),
)
def test_what_a_csv_writer_writes_is_read_back(
    tmp_path: Path, pairs: list[tuple[str, str]], delimiter: str
) -> None:
    with (tmp_path / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("image", "caption"), *pairs])
    rows, left_out = _read(tmp_path / "captions.csv")
    expected = [(image.strip().removeprefix("./"), (caption.strip(),)) for image, caption in pairs]
    assert [(row.image, row.captions) for row in rows] == expected and left_out == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_an_error_of_kdx(tmp_path: Path, content: bytes) -> None:
    for head in (b"", b"filepath,title\n"):
        try:
            rows, _ = _read(_table(tmp_path, head + content))
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert all(row.image and row.key for row in rows)
