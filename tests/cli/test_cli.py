"""Facts of kdx/cli/__init__.py: the commands, their errors and exit codes."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kdx
from kdx.cli import VERBS, cli, main
from kdx.core.errors import DataError, GateError, SetupError, UsageError


def _run(*args: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def _commands() -> list[str]:
    """All commands and groups below kdx, such as "bench" and "bench latency"."""
    groups = {verb: cli.get_command(None, verb) for verb in VERBS}  # type: ignore[arg-type]
    return [
        *groups,
        *(f"{verb} {name}" for verb, group in groups.items() for name in getattr(group, "commands", {})),
    ]


def test_messages_and_documents_name_commands_that_exist() -> None:
    root = Path(kdx.__file__).parents[1]
    groups = [verb for verb in VERBS if any(each.startswith(f"{verb} ") for each in _commands())]
    named = re.compile(rf"(?:`|\(|\"|run |with )kdx ({'|'.join(groups)}) ([a-z-]+)\b")
    files = [*root.glob("*.md"), *root.glob("docs/*.md"), *(root / "kdx").resolve().rglob("*.py")]
    for room in ("distill", "export", "serve", "bench"):
        files += (root / room).rglob("*.py")
    found = [(file, *names) for file in files for names in named.findall(file.read_text(encoding="utf-8"))]
    assert len(found) > 20
    assert [each for each in found if f"{each[1]} {each[2]}" not in _commands()] == []


@pytest.mark.parametrize("command", _commands())
def test_every_command_has_an_example_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*command.split(), "--help") == 0
    examples = [
        line.partition(":")[2].strip() for line in capsys.readouterr().out.splitlines() if "Example:" in line
    ]
    assert len(examples) == 1 and examples[0].startswith(f"kdx {command}")


@pytest.mark.parametrize(
    "args",
    [
        "--help",
        "--version",
        *(f"{verb} --help" for verb in VERBS),
        "models init --help",
        "bench methods --help",
    ],
)
def test_no_help_imports_torch(args: str) -> None:
    script = (
        "import sys\nfrom kdx.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args.split()], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError, 2), (GateError, 3), (DataError, 4), (SetupError, 5), (RuntimeError, 1)]
)
def test_the_exit_code_says_whose_fault_it_is(
    error: type[Exception], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("something broke")

    monkeypatch.setattr(cli, "main", fail)
    assert _run("doctor") == code
    assert "error:" in capsys.readouterr().err


def test_what_the_machine_refuses_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/full/model.safetensors")

    monkeypatch.setattr(cli, "main", fail)
    assert _run("doctor") == 5
    what, remedy = capsys.readouterr().err.splitlines()
    assert what == "error: /full/model.safetensors: No space left on device"
    assert remedy.startswith("  remedy: ")


def test_a_missing_file_of_kdx_itself_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    monkeypatch.setattr(cli, "main", fail)
    assert _run("doctor") == 1
    assert "this is a bug in kdx" in capsys.readouterr().err


def test_an_error_is_two_lines_what_and_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert _run("models", "init", "ViT-T/16", "--out", str(tmp_path / "x")) == 2
    captured = capsys.readouterr()
    what, remedy = captured.err.splitlines()
    assert what.startswith("error: ") and "ViT-T/16" in what
    assert remedy.startswith("  remedy: ") and "ViT-T-16" in remedy
    assert captured.out == ""


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("distil") == 2
    assert "'distill'" in capsys.readouterr().err


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupt)
    assert _run("doctor") == 130


@pytest.mark.parametrize("args", [["--version"], ["doctor", "--help"]])
def test_a_closed_stdout_is_no_fault(args: list[str]) -> None:
    script = "import sys; from kdx.cli import main; main(sys.argv[1:])"
    without_stdout = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", script, *args]
    done = subprocess.run(without_stdout, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_device_behind_stdout_is_the_machines_fault() -> None:
    script = "import sys; from kdx.cli import main; main(sys.argv[1:])"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script, "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 5 and b"No space left" in done.stderr and b"Traceback" not in done.stderr
