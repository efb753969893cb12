"""Facts of data/prepare/preparation.py, with the real img2dataset and a web that is not all well."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from kdx.core.errors import SetupError, UsageError
from kdx.data.prepare import Settings, prepare
from kdx.data.prepare.environment import find_downloader
from kdx.data.prepare.preparation import PASSED

from .conftest import Web

FAST = {"timeout": "3"}  # a busy machine answers everything but `slow` within it


def settings(**changes: Any) -> Settings:
    return Settings(**{"processes": 1, "threads": 16, "retries": 1, "typed": FAST, **changes})


def cc3m(folder: Path, urls: list[str]) -> Path:
    """As Google's file: the caption, a TAB, the URL."""
    path = folder / "Train_GCC-training.tsv"
    path.write_text(
        "".join(f'a " tree of number {n}\t{url}\n' for n, url in enumerate(urls)), encoding="utf-8"
    )
    return path


def photo_of_noise(seed: int, size: int = 280) -> bytes:
    """Hardly compressible: of 280 pixels about 170 kB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """By URL: the members of each sample, by suffix."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            by_key: dict[str, dict[str, bytes]] = {}
            for member in tar:
                key, _, suffix = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                by_key.setdefault(key, {})[suffix] = file.read()
        for members in by_key.values():
            found[json.loads(members["json"])["url"]] = members
    return found


def test_the_web_as_it_is_becomes_shards_and_reasons(
    web: Web, tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    kinds = ["photo"] * 4 + ["missing", "busy", "html", "short", "moved", "noai", "slow", "half"]
    urls = [web.url(f"/{kind}/{number}") for number, kind in enumerate(kinds)]
    urls.append(urls[0])
    prepared = prepare(cc3m(tmp_path, urls), tmp_path / "out", settings())
    got = samples(tmp_path / "out")
    assert set(got) == {url for url in urls if url.split("/")[-2] in ("photo", "busy", "moved")}
    assert prepared.rows == 13 and prepared.got == 7  # a URL that occurs twice is two pairs
    assert prepared.failed == {
        "HTTP 404 (Not Found)": 1,
        "not an image": 1,
        "cut short": 2,
        "use not allowed (X-Robots-Tag)": 1,
        "timed out": 1,
    }
    one = got[urls[1]]
    assert one["txt"].decode() == 'a " tree of number 1'
    assert one["jpg"] == make_photo(1, 48)  # smaller than asked for: as it came, to the byte
    assert json.loads(one["json"])["sha256"] == hashlib.sha256(make_photo(1, 48)).hexdigest()
    first, again = web.times["/busy/5"]
    assert again - first >= 1  # as its Retry-After asks
    assert all("img2dataset" in agent for agent in web.agents)


def test_when_nothing_comes_it_is_said_why_and_tried_again(web: Web, tmp_path: Path) -> None:
    urls = [web.url(f"/photo/{number}") for number in range(6)]
    listed, out = cc3m(tmp_path, urls), tmp_path / "out"
    answering, web.answer = web.answer, lambda request: request.send_error(503)
    with pytest.raises(SetupError, match=r"none of 6 images could be downloaded; 6 × HTTP 503") as caught:
        prepare(
            listed, out, settings(retries=0, image_size=256)
        )  # nothing came, so the size may still change
    assert caught.value.remedy == "check the network and the list, and give the same command again"
    web.answer = answering
    prepared = prepare(listed, out, settings())
    assert (prepared.got, prepared.failed) == (6, {}) and prepared.bytes > 0
    asked = web.asked.total()
    assert prepare(listed, out, settings(threads=1)).got == 6 and web.asked.total() == asked
    assert not (out / ".prepare/list").exists()  # as large as the list itself
    (out / "00000_stats.json").unlink()  # a shard that is no longer whole
    assert prepare(listed, out, settings()).got == 6 and web.asked.total() == asked + 6

    with pytest.raises(UsageError, match=r"was begun with other settings: .*288.* now .*256"):
        prepare(listed, out, settings(image_size=256))
    with pytest.raises(UsageError, match="was begun with other columns"):
        prepare(listed, out, settings(caption_column="2"))
    other = cc3m(tmp_path, urls[1:])
    with pytest.raises(UsageError, match="holds images of another list than") as refused:
        prepare(other, out, settings())
    assert refused.value.where == str(out) and len(samples(out)) == 6


def test_larger_images_get_the_shorter_side_and_tiny_ones_are_left_out(
    web: Web, tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    def png_of_some(number: int) -> bytes:
        return make_photo(number, [16, 120, 90][number], "PNG" if number else "JPEG")

    web.photos = png_of_some
    path = tmp_path / "urls.txt"
    path.write_text(
        "\n".join(web.url(f"/photo/{number}") for number in range(3)) + "\nftp://127.0.0.1/x.jpg\n"
    )
    prepared = prepare(path, tmp_path / "out", settings(image_size=96))
    assert prepared.failed == {"image too small": 1}
    assert not prepared.captions
    assert (prepared.left_out, prepared.first_left_out) == (1, f"{path}:4")
    sizes = {}
    for url, members in samples(tmp_path / "out").items():
        assert set(members) == {"jpg", "json"}
        sizes[url[-1]] = Image.open(io.BytesIO(members["jpg"])).size
    assert sizes == {"1": (96, 101), "2": (90, 96)}  # 120 × 126 and 90 × 96


def test_options_that_are_passed_are_those_of_img2dataset() -> None:
    script = (
        "import importlib, inspect\n"
        "print(*inspect.signature(importlib.import_module('img2dataset.main').download).parameters)"
    )
    downloader = find_downloader()
    downloader.install()
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    told = subprocess.run(
        [downloader.python, "-I", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert set(told.stdout.split()) >= PASSED


def test_an_option_that_is_kdxs_or_nobodys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="enable_wandb is no option"):
        prepare(tmp_path / "list", tmp_path / "out", settings(typed={"enable_wandb": "True"}))
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path / "list", tmp_path / "out", settings(typed={"encode_qualty": "90"}))
    assert caught.value.remedy == "did you mean encode_quality?"


# As a command, which is ended from outside

SMALL_SHARDS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell's background runs the tests
from kdx.cli import main
from kdx.data.prepare import preparation
preparation.ROWS_A_SHARD, preparation.ROWS_A_FILE = 5, 10
main(["data", "prepare", *sys.argv[1:]])
"""


def kdx(listed: Path, out: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SMALL_SHARDS, str(listed), "--out", str(out), "--processes", "1"]
    return subprocess.Popen(
        [*command, "--", "--timeout=60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_whatever_ends_it_nothing_runs_on_and_the_same_command_goes_on(web: Web, tmp_path: Path) -> None:
    kinds = ["photo"] * 12 + ["held"] + ["photo"] * 5
    listed = cc3m(tmp_path, [web.url(f"/{kind}/{number}") for number, kind in enumerate(kinds)])
    out = tmp_path / "out"
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    for times, (number, code) in enumerate(codes.items(), 1):
        run = kdx(listed, out)
        wait_for(lambda times=times: web.asked["/held/12"] == times)
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) >= 3  # img2dataset, its logger and a worker
        run.send_signal(number)
        run.communicate()
        assert run.returncode == code
        assert psutil.wait_procs(family, timeout=30)[1] == []
        assert {path.name for path in out.glob("*.tar")} == {"00000.tar", "00001.tar"}
    web.open.set()
    run = kdx(listed, out)
    said, noted = run.communicate()
    assert run.returncode == 0, noted
    assert said == f"{out}\n" and "18 of 18 images (100.0%) in 4 shards" in noted
    assert len(samples(out)) == 18 and not (out / "_tmp").exists()
    assert not (out / ".prepare/list").exists()
    assert all(web.asked[f"/photo/{number}"] == 1 for number in range(10))  # of the shards that were whole


def test_a_full_disk_is_one_line_and_nothing_is_lost(web: Web, tmp_path: Path) -> None:
    web.photos = lambda number: photo_of_noise(number) if number >= 5 else photo_of_noise(number, 60)
    listed = cc3m(tmp_path, [web.url(f"/photo/{number}") for number in range(10)])
    out = tmp_path / "out"
    limit = 400_000  # bytes that a file may have, as on a file system that is full
    run = kdx(listed, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, noted = run.communicate()
    assert run.returncode == SetupError.exit_code, noted
    assert f"error: {out}: cannot be written: File too large\n" in noted
    assert "free space, and give the same command again: it goes on from there" in noted
    assert {path.name for path in out.glob("*.tar")} == {"00000.tar"}
    run = kdx(listed, out)
    assert run.communicate()[0] and run.returncode == 0
    assert len(samples(out)) == 10
