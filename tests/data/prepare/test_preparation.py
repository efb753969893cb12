"""Facts of data/prepare/preparation.py, with the real img2dataset and a web that is not all well."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.data.prepare import Settings, prepare

if TYPE_CHECKING:
    from .conftest import Web

FAST = {"timeout": "1"}


def settings(**changes: Any) -> Settings:
    return Settings(**{"processes": 1, "threads": 16, "retries": 1, "typed": FAST, **changes})


def cc3m(folder: Path, urls: list[str]) -> Path:
    """As Google's file: the caption, a TAB, the URL."""
    path = folder / "Train_GCC-training.tsv"
    path.write_text(
        "".join(f'a " tree of number {n}\t{url}\n' for n, url in enumerate(urls)), encoding="utf-8"
    )
    return path


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
    kinds = ["photo"] * 4 + ["missing", "busy", "html", "short", "moved", "noai", "slow", "photo"]
    urls = [web.url(f"/{kind}/{number}") for number, kind in enumerate(kinds)]
    urls.append(urls[0])
    prepared = prepare(cc3m(tmp_path, urls), tmp_path / "out", settings())
    got = samples(tmp_path / "out")
    assert set(got) == {url for url in urls if url.split("/")[-2] in ("photo", "busy", "moved")}
    assert prepared.rows == 13 and prepared.got == 8  # a URL that occurs twice is two pairs
    assert prepared.failed == {
        "HTTP 404 (Not Found)": 1,
        "not an image": 1,
        "cut short": 1,
        "use not allowed (X-Robots-Tag)": 1,
        "timed out": 1,
    }
    one = got[urls[1]]
    assert one["txt"].decode() == 'a " tree of number 1'
    assert one["jpg"] == make_photo(1, 48)  # smaller than asked for: as it came, to the byte
    assert json.loads(one["json"])["sha256"] == hashlib.sha256(make_photo(1, 48)).hexdigest()
    assert web.asked["/busy/5"] == 2
    assert all("img2dataset" in agent for agent in web.agents)
