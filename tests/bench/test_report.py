"""Facts of kdx/bench/report.py and the page: complete, self-contained, and safe against what data says."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kdx.bench import ClassifyExample, SearchExample, render_report, write_report
from kdx.core.errors import DataError

CURVES = {"baseline": [(10, 3.0), (20, 2.5)], "distilled": [(10, 2.9), (20, 2.25)], "teacher": [(10, 3.0)]}
HOSTILE = """</title></style><script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7*7 }}&amp;"""


class _Page(HTMLParser):
    """All tags with their attributes, the text, and whether the tags close in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _write(report: dict[str, Any], folder: Path, **extra: Any) -> _Page:
    path = write_report(report, folder, **{"curves": CURVES, **extra})
    return _Page(path.read_text(encoding="utf-8"))


def _full(report: dict[str, Any], text: str) -> dict[str, Any]:
    """The report with everything optional, `text` wherever a text may stand."""
    model = {"architecture": text, "parameters": 3_000_000, "latency_ms": 1.5}
    return {
        **report,
        "title": text,
        "summary": text,
        "accuracy": {
            **report["accuracy"],
            "metric": text,
            "protocol": text,
            "intervals": {"teacher": [0.78, 0.82], "baseline": [0.48, 0.52], "distilled": [0.63, 0.67]},
        },
        "models": dict.fromkeys(("teacher", "baseline", "distilled"), model),
        "setting": {text: text, "pairs": 4000},
        "parity": {**report["parity"], "verdict": text},
        "latency_ms": {**report["latency_ms"], text: report["latency_ms"]["onnx"]},
        "triton": {"version": text, "source": text},
        "seconds": {text: 1.0},
        "commands": [{"title": text, "command": text}],
        "provenance": {text: text, "cpu": text, "cpu_count": 2, "gpu": [text], "packages": {text: text}},
    }


def test_three_files_are_written_and_the_numbers_kept(report: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(report, tmp_path / "out", curves=CURVES)
    assert path == tmp_path / "out" / "report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "report-data.json",
        "report.html",
        "report.json",
    ]
    written = json.loads((path.parent / "report.json").read_text())
    assert written.pop("schema") == 1 and written.pop("created")
    assert written == report


def test_the_headline_is_the_gain(report: dict[str, Any], tmp_path: Path) -> None:
    text = re.sub(r"[ \n]+", " ", _write(report, tmp_path).text)
    assert "+15.0points" in text
    assert (
        "zero-shot top-1 accuracy from 50.0\N{NARROW NO-BREAK SPACE}% to 65.0\N{NARROW NO-BREAK SPACE}%"
        in text
    )
    assert "50 % of the way to its teacher" in text  # 0.15 of 0.30


def test_a_loss_is_said_as_plainly_as_a_gain(report: dict[str, Any], tmp_path: Path) -> None:
    report["accuracy"]["distilled"] = 0.45
    text = _write(report, tmp_path).text
    assert "−5.0" in text and "did not lift" in text and "of the way" not in text


def test_overlapping_intervals_are_said(report: dict[str, Any], tmp_path: Path) -> None:
    report["accuracy"]["intervals"] = {"baseline": [0.4, 0.61], "distilled": [0.6, 0.7]}
    assert "intervals overlap" in _write(report, tmp_path).text
    report["accuracy"]["intervals"] = {"baseline": [0.4, 0.59], "distilled": [0.6, 0.7]}
    assert "intervals overlap" not in _write(report, tmp_path).text


def test_a_student_past_its_teacher_is_said(report: dict[str, Any], tmp_path: Path) -> None:
    report["accuracy"]["distilled"] = 0.85
    assert "past its teacher" in _write(report, tmp_path).text


def test_every_latency_stands_in_a_table(report: dict[str, Any], tmp_path: Path) -> None:
    source = write_report(report, tmp_path, curves=CURVES).read_text()
    for value in ("1.50", "3.00", "4.50", "0.750", "2.25", "7.00", "14.0", "21.0"):
        assert f"<td>{value}</td>" in source


def test_the_page_loads_nothing_and_runs_nothing(report: dict[str, Any], tmp_path: Path, png: bytes) -> None:
    page = _write(
        _full(report, "plain"),
        tmp_path,
        searches=[SearchExample("a query", [png], [0.5])],
        classifications=[ClassifyExample(png, [("a", 0.9)], "a")],
    )
    policy = [
        attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy[0] and policy[0].startswith("default-src 'none'; img-src data:;")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attrs in page.tags:
        assert (tag == "img") == ("src" in attrs)
        assert not {"href", "srcset", "xlink:href", "action"} & attrs.keys()
        assert (attrs.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert "url(" not in (attrs.get("style") or "")
    source = (tmp_path / "report.html").read_text()
    assert "http://" not in source and "https://" not in source and "@import" not in source


def test_texts_cannot_become_markup(report: dict[str, Any], tmp_path: Path, png: bytes) -> None:
    pictures = {
        "searches": lambda text: [SearchExample(text, [png], [0.5])],
        "classifications": lambda text: [ClassifyExample(png, [(text, 0.9), ("b", 0.1)], text)],
        "curves": lambda text: {text: [(1, 2.0)]},
    }
    tame = _write(_full(report, "tame"), tmp_path / "tame", **{k: v("tame") for k, v in pictures.items()})
    wild = _write(_full(report, HOSTILE), tmp_path / "wild", **{k: v(HOSTILE) for k, v in pictures.items()})
    assert [tag for tag, _ in wild.tags] == [tag for tag, _ in tame.tags]
    assert [attrs.keys() for _, attrs in wild.tags] == [attrs.keys() for _, attrs in tame.tags]
    assert wild.text.count(HOSTILE) >= 15  # shown as it is: neither run by the browser nor by the template
    assert "49" not in wild.text.replace("{{ 7*7 }}", "").split()


def test_pictures_become_small_jpegs_with_a_text_for_those_who_do_not_see_them(
    report: dict[str, Any], tmp_path: Path, png: bytes
) -> None:
    page = _write(report, tmp_path, searches=[SearchExample("a query", [png, png], [0.5, 0.25])])
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["result 1 for “a query”", "result 2 for “a query”"]
    assert "0.500" in page.text and "0.250" in page.text


def test_charts_and_tables_speak_to_screen_readers(report: dict[str, Any], tmp_path: Path) -> None:
    page = _write(_full(report, "text"), tmp_path)
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) == 3 and all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


def test_a_page_is_rendered_again_to_the_same_bytes(
    report: dict[str, Any], tmp_path: Path, png: bytes
) -> None:
    path = write_report(
        _full(report, "text"),
        tmp_path,
        curves=CURVES,
        searches=[SearchExample("a query", [png], [0.5])],
        classifications=[ClassifyExample(png, [("a", 0.9)], None)],
    )
    before = path.read_bytes()
    path.unlink()
    assert render_report(tmp_path) == path
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("accuracy", "teacher"), 80.0, "accuracy.teacher"),  # percent instead of a fraction
        (("accuracy", "baseline"), None, "accuracy.baseline"),
        (("accuracy", "distilled"), float("nan"), "accuracy.distilled"),
        (("parity", "image", "min_cosine"), 1.5, "parity.image.min_cosine"),
        (("parity", "text", "max_abs"), -1.0, "parity.text.max_abs"),
        (("latency_ms", "triton"), {}, "latency_ms.triton.1 is missing"),
        (("latency_ms", "onnx", "8"), None, "latency_ms.onnx.8"),
        (("latency_ms", "torch", "1", "p95"), 0.1, "latency_ms.torch.1"),
        (("latency_ms", "torch", "1", "num_samples"), 0, "num_samples"),
        (("latency_ms", "torch", "many"), {"p50": 1, "p95": 1, "p99": 1, "num_samples": 1}, "latency_ms"),
        (("triton",), {}, "triton.version"),
        (("seconds",), {}, "seconds"),
        (("seconds", "data"), -1, "seconds.data"),
        (("provenance",), {}, "provenance"),
        (("models",), {"teacher": {"architecture": "a", "parameters": 1}}, "models"),
        (("extra",), float("nan"), "JSON"),
        (("extra",), object(), "JSON"),
    ],
)
def test_a_report_that_does_not_fit_is_refused_and_nothing_written(
    report: dict[str, Any], tmp_path: Path, path: tuple[str, ...], value: object, named: str
) -> None:
    table = report
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    with pytest.raises(DataError) as error:
        write_report(report, tmp_path, curves=CURVES)
    assert named in error.value.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["accuracy", "parity", "latency_ms", "triton", "seconds", "provenance"])
def test_a_missing_part_is_named(report: dict[str, Any], tmp_path: Path, key: str) -> None:
    del report[key]
    with pytest.raises(DataError) as error:
        write_report(report, tmp_path, curves=CURVES)
    assert error.value.what.startswith(f"{key}: ")


def test_a_picture_that_does_not_decode_is_refused_and_nothing_written(
    report: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        write_report(report, tmp_path, curves={}, searches=[SearchExample("q", [b"<svg/>"], [0.5])])
    assert list(tmp_path.iterdir()) == []


def test_a_score_must_stand_beside_each_image(png: bytes) -> None:
    with pytest.raises(DataError) as error:
        SearchExample("q", [png], [0.5, 0.4])
    assert "1 images" in error.value.what and "2 scores" in error.value.what


@pytest.mark.parametrize("name", ["report.json", "report-data.json"])
def test_a_folder_without_its_files_is_not_rendered(
    report: dict[str, Any], tmp_path: Path, name: str
) -> None:
    write_report(report, tmp_path, curves=CURVES)
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as error:
        render_report(tmp_path)
    assert error.value.where == str(tmp_path / name)


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b'{"curves": {}, "searches": [], "classifications": [{"image": "!", "top": [], "truth": null}]}',
        b'{"curves": {}, "searches": [{"query": "q", "images": ["PHN2Zz4="], "scores": [1]}], "classifications": []}',
        b'{"curves": {}, "searches": [{"query": "q", "images": [], "scores": [1]}], "classifications": []}',
    ],
)
def test_damaged_data_is_refused(report: dict[str, Any], tmp_path: Path, damage: bytes) -> None:
    write_report(report, tmp_path, curves=CURVES)
    (tmp_path / "report-data.json").write_bytes(damage)
    with pytest.raises(DataError):
        render_report(tmp_path)
