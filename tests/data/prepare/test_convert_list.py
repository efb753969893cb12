"""Facts of data/prepare/convert_list.py, the script that writes the list for img2dataset."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import DataError, SetupError
from kdx.data.prepare import scripts
from kdx.data.prepare.environment import find_downloader
from kdx.data.prepare.scripts import ask

ONE, TWO = "http://a.example/1.jpg", "https://b.example/x,y.png?w=1"


@pytest.fixture(scope="module")
def python() -> Path:
    downloader = find_downloader()
    downloader.install()
    return downloader.python


def convert(
    python: Path, files: list[Path], out: Path, **job: Any
) -> tuple[dict[str, Any], list[list[list[str]]]]:
    """The answer, and the rows of each Parquet file."""
    out.mkdir()
    fields = {"files": [str(file) for file in files], "header": False, "rows_per_file": 2, "out": str(out)}
    answer = ask(python, "convert_list.py", fields | job, files[0])
    parts = sorted(out.iterdir())
    return answer, [ask(python, "convert_list.py", {"show": str(part)}, part)["rows"] for part in parts]


def test_a_table_between_tabs_is_taken_as_it_is(python: Path, tmp_path: Path) -> None:
    listed = tmp_path / "cc3m.tsv"
    listed.write_text(
        f'" begins with a quotation mark\t{ONE}\n \t{ONE}\nno url\t\n\na\t{TWO}\nb\t{ONE}\r\n', newline=""
    )
    answer, parts = convert(python, [listed], tmp_path / "out", format="tab", url=1, caption=0)
    assert answer == {"rows": 3, "left_out": 2, "first_left_out": f"{listed}:2"}
    assert parts == [[[ONE, '" begins with a quotation mark'], [TWO, "a"]], [[ONE, "b"]]]


def test_csv_has_quoted_fields_and_lines_within_them(python: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f'url,caption\n"{TWO}","one,\nand ""two"""\nfile:///etc/passwd,x\n', encoding="utf-8")
    answer, parts = convert(python, [listed], tmp_path / "out", format="comma", header=True, url=0, caption=1)
    assert answer == {"rows": 1, "left_out": 1, "first_left_out": f"{listed}:4"}
    assert parts == [[[TWO, 'one,\nand "two"']]]


def test_rows_between_quotes_that_do_not_belong_together_are_counted(python: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f'{ONE},"a\n{ONE},b\n{ONE},"c\n{TWO},d "e"\n{TWO},"f "g""\n'.replace(TWO, f'"{TWO}"'))
    answer, parts = convert(python, [listed], tmp_path / "out", format="comma", url=0, caption=1)
    assert answer == {"rows": 2, "left_out": 3, "first_left_out": f"{listed}:1"}
    assert parts[0][0][1] == 'd "e"'


def test_the_parts_of_a_parquet_folder_are_one_list(python: Path, tmp_path: Path) -> None:
    write = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
        "for part, text in enumerate(('words', None)):\n"
        "    columns = {'SIZE': [1, 2], 'TEXT': [text, 'more'], 'URL': sys.argv[2:4]}\n"
        "    pq.write_table(pa.table(columns), f'{sys.argv[1]}/{part}.parquet')\n"
    )
    subprocess.run([python, "-c", write, tmp_path, ONE, TWO], check=True)
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    shown = ask(python, "convert_list.py", {"show": str(files[1])}, files[1])
    assert shown == {"names": ["SIZE", "TEXT", "URL"], "rows": [["1", "", ONE], ["2", "more", TWO]]}
    answer, parts = convert(python, files, tmp_path / "out", format="parquet", url=2, caption=1)
    assert answer == {"rows": 3, "left_out": 1, "first_left_out": f"{files[1]}:1"}
    assert parts == [[[ONE, "words"], [TWO, "more"]], [[TWO, "more"]]]


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        (f"one\t{ONE}\n".encode() * 200 + b"caf\xe9\t\n", "tab"),
        (b"PAR1 and no more", "parquet"),
        (f'{ONE},"'.encode() + b"x" * 2**21 + b'"\n', "comma"),
        (f'{ONE},a\n{ONE},"open\n{TWO},b\n'.encode(), "comma"),
    ],
)
def test_a_list_that_is_damaged_is_named(python: Path, tmp_path: Path, content: bytes, format_: str) -> None:
    listed = tmp_path / "list"
    listed.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read: ") as caught:
        convert(python, [listed], tmp_path / "out", format=format_, url=0, caption=1)
    assert caught.value.where == str(listed)


def test_a_list_that_does_not_fit_the_disk_is_the_machines_fault(python: Path, tmp_path: Path) -> None:
    listed, script = tmp_path / "list.txt", Path(scripts.__file__).with_name("convert_list.py")
    listed.write_text(
        "".join(f"{ONE}?{hashlib.sha256(bytes([n % 256, n >> 8])).hexdigest()}\n" for n in range(5000))
    )
    limited = tmp_path / "python"  # the kernel refuses there as it does on a full disk
    limited.write_text(f'#!/bin/sh\nulimit -f 100\nexec "{python}" -I "{script}"\n')
    limited.chmod(0o755)
    with pytest.raises(SetupError, match="cannot be written: File too large") as caught:
        convert(limited, [listed], tmp_path / "out", format="lines", url=0, caption=None, rows_per_file=5000)
    assert caught.value.where == str(tmp_path / "out")
