"""Writes a list as small Parquet files of `url` and `caption`, which img2dataset reads one after another.

A script for the environment of img2dataset, where pyarrow is; it imports nothing of kdx. What to do is a JSON object
in its input; it answers in lines of JSON: {"done", "total"} while it works, in bytes, and at the end {"rows",
"left_out", "first_left_out"} or {"error", "errno"}. However long the list is, no more than ROWS of it are held.
"""

import csv
import json
import re
import sys
from pathlib import Path

import pyarrow as pa  # pyright: ignore[reportMissingImports]
import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

ROWS = 10_000
NO_ROW = "no row"  # in the place of fields
FIELD = 2**20  # characters that a field of CSV may have
URL = re.compile(r"https?://[^\s/]+", re.IGNORECASE)  # img2dataset would open file:// and ftp:// too
ROWS_SEEN = 100


def show(path: str) -> dict:
    """The names of a Parquet file's columns and its first rows, as text."""
    file = pq.ParquetFile(path)
    batch = next(file.iter_batches(batch_size=ROWS_SEEN), None)
    rows = (
        []
        if batch is None
        else [["" if v is None else str(v)[:2000] for v in r.values()] for r in batch.to_pylist()]
    )
    return {"names": file.schema_arrow.names, "rows": rows}


def comma_rows(lines):
    """(line number, fields) of CSV, in which no quote hides rows: as kdx/data/sources/csv_rows.py, whose words say why.

    Lines that are no row have no fields.
    """
    held = []
    ended = False

    def feed():
        nonlocal ended
        for line in lines:
            held.append(line)
            yield line
        ended = True

    reader = csv.reader(feed(), strict=True)
    number = 0
    while True:
        held.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if ended or sum(map(len, held)) > FIELD:
                raise csv.Error(f"a quote that opens in line {number + 1} is never closed") from None
            fields = next(csv.reader(held)) if len(held) == 1 else None
        if fields is None:
            yield from ((number + n, [NO_ROW]) for n in range(1, len(held) + 1))
        number += len(held)
        if fields is not None:
            yield number, fields


def text_rows(path: str, format_: str, header: bool):
    """(line number, fields, bytes read so far) of each row that is not empty."""
    with Path(path).open("rb") as raw:
        lines = (line.decode("utf-8-sig" if number == 0 else "utf-8") for number, line in enumerate(raw))
        if format_ == "comma":
            csv.field_size_limit(FIELD)
            rows = comma_rows(lines)
        else:
            separator = "\t" if format_ == "tab" else "\n"
            rows = ((number, line.rstrip("\r\n").split(separator)) for number, line in enumerate(lines, 1))
        for index, (number, row) in enumerate(row for row in rows if any(row[1])):
            if index or not header:
                yield number, row, raw.tell()


def parquet_rows(path: str, url: int, caption: int | None):
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    chosen = [names[url]] + ([] if caption is None else [names[caption]])
    size, number = Path(path).stat().st_size, 0
    for batch in file.iter_batches(batch_size=ROWS, columns=chosen):
        columns = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in chosen]
        for fields in zip(*columns, strict=True):
            number += 1
            yield (
                number,
                ["" if v is None else str(v) for v in fields],
                size * number // file.metadata.num_rows,
            )


def pairs(job: dict):
    """(where, url, caption or None, bytes read so far) of each row; url is "" for a row that cannot be taken."""
    before = 0
    url, caption = job["url"], job["caption"]
    for path in job["files"]:
        if job["format"] == "parquet":
            rows, places = parquet_rows(path, url, caption), (0, None if caption is None else 1)
        else:
            rows, places = text_rows(path, job["format"], job["header"]), (url, caption)
        for number, row, read in rows:
            address = row[places[0]].strip() if places[0] < len(row) else ""
            text = None
            if places[1] is not None:
                text = row[places[1]].strip() if places[1] < len(row) else ""
            taken = URL.match(address) and text != ""
            yield f"{path}:{number}", address if taken else "", text, before + read
        before += Path(path).stat().st_size


def convert(job: dict) -> dict:
    fields = [("url", pa.string())] + ([] if job["caption"] is None else [("caption", pa.string())])
    schema = pa.schema(fields)
    total = sum(Path(path).stat().st_size for path in job["files"])
    rows = left_out = parts = 0
    first_left_out = None
    held: list[list] = [[] for _ in fields]

    def write() -> None:
        nonlocal parts
        table = pa.table([pa.array(column, pa.string()) for column in held], schema=schema)
        pq.write_table(table, Path(job["out"]) / f"{parts:05d}.parquet")
        parts += 1
        for column in held:
            column.clear()

    for where, url, caption, read in pairs(job):
        if not url:
            left_out += 1
            first_left_out = first_left_out or where
            continue
        for column, value in zip(held, (url, caption)):  # noqa: B905  a list without captions has one column
            column.append(value)
        rows += 1
        if rows % job["rows_per_file"] == 0:
            write()
            print(json.dumps({"done": read, "total": total}), flush=True)
    if held[0]:
        write()
    return {"rows": rows, "left_out": left_out, "first_left_out": first_left_out}


def main() -> None:
    job = json.load(sys.stdin)
    try:
        answer = show(job["show"]) if "show" in job else convert(job)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        answer = {"error": " ".join(str(error).split()), "errno": getattr(error, "errno", None)}
    print(json.dumps(answer), flush=True)


main()
