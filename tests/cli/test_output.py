"""Facts of kdx/cli/output.py: what is printed is valid for programs and readable on every terminal."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import kdx.cli
from kdx.cli.output import print_json, print_table, save_document
from kdx.core.errors import SetupError

ODD = os.fsdecode(b"caf\xe9.jpg")  # a Latin-1 file name as Python shows it to programs


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_is_valid_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_json({"→": [ODD, Path(ODD), float("nan"), 1.5, None, True], "日本": ("a", "b")})
    sys.stdout.flush()
    odd = "caf\\udce9.jpg"
    expected = {"→": [odd, odd, None, 1.5, None, True], "日本": ["a", "b"]}
    assert json.loads(raw.getvalue().decode(encoding)) == expected
    assert ("日本".encode() in raw.getvalue()) == (encoding == "utf-8")  # readable where it can be


def test_a_document_that_cannot_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    save_document(tmp_path / "new" / "table", {"a": 1}, md="| a |")
    assert (tmp_path / "new" / "table.md").read_text() == "| a |\n"
    with pytest.raises(SetupError, match="a folder cannot be made here"):
        save_document(Path("/proc/x/table"), {})


def test_a_table_in_a_pipe_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "what", box=None)
    table.add_row("a", "word " * 60)
    table.add_row("b", "")
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", "a", "b"]
    assert lines[1].count("word") == 60 and all(line == line.rstrip() for line in lines)


def test_a_terminal_without_utf_8_shows_escapes() -> None:
    script = "import click; from kdx.cli import cli, main\n"
    script += "@cli.command('speak')\ndef speak(): click.echo('1 → 2'); click.echo('≤', err=True)\n"
    script += "cli.get_command = lambda ctx, name: speak\nmain(['speak'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1 \\u2192 2\n", b"\\u2264\n")


def test_all_commands_print_json_through_the_one_function() -> None:
    for file in Path(kdx.cli.__file__).parent.glob("*.py"):
        if file.name in ("output.py", "query.py", "eval.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.echo":
                assert "json.dumps" not in ast.unparse(node), file
