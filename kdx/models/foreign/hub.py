"""open_clip's published models by name, through open_clip's own download functions."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from open_clip import pretrained as hub

from kdx.core.errors import SetupError, UsageError
from kdx.core.folders import read_json
from kdx.core.spelling import nearest

from ..architectures import Architecture, read_architecture
from ..clip_configuration import check_supported
from ..open_clip_architectures import from_open_clip, with_preprocess
from .known import named
from .preprocessing import read_open_clip_preprocess

PREFIX = "hf-hub:"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Published:
    """Downloaded weights, and the architecture that their publisher states."""

    weights: Path
    architecture: Architecture


def is_hub_name(source: str) -> bool:
    """Whether this is NAME:TAG of open_clip or hf-hub:OWNER/MODEL."""
    name, colon, tag = source.partition(":")
    return bool(colon and name and tag) and len(name) > 1 and "\\" not in source


def fetch(source: str) -> Published:
    """source: NAME:TAG as in open_clip's list_pretrained, or hf-hub:OWNER/MODEL of an open_clip repository.

    Raises UsageError for unknown names and tags and for names of models that kdx cannot build, DataError for a
    repository that holds such a model (before anything large is downloaded), SetupError when the download fails.
    """
    if source.startswith(PREFIX):
        return _fetch_repository(source.removeprefix(PREFIX))
    return _fetch_tag(*source.split(":", 1))


def open_clip_config(path: Path, name: str) -> Architecture:
    """The architecture in an `open_clip_config.json`, by the name of the known one that is the same, else by `name`.

    Raises DataError.
    """
    config = read_json(path)
    architecture = from_open_clip(name, config.get("model_cfg"), path)
    check_supported(architecture, path)
    stated = read_open_clip_preprocess(
        config.get("preprocess_cfg", {}), architecture.vision_cfg.image_size, path
    )
    return with_preprocess(named(architecture), stated)


def _fetch_tag(name: str, tag: str) -> Published:
    name = name.replace("/", "-")  # open_clip takes OpenAI's spelling ViT-B/32 too
    architecture = read_architecture(name)
    config = hub.get_pretrained_cfg(name, tag)
    if not config:
        tags = hub.list_pretrained_tags_by_model(name)
        close = nearest(tag, tags) or next(iter(tags), None)
        remedy = f"did you mean {name}:{close}?" if close else "see open_clip.list_pretrained()"
        raise UsageError(f"open_clip has no weights {tag!r} of {name}", remedy=remedy)
    # the tag knows what the weights were trained with; open_clip itself goes by the name and only warns
    quick_gelu = bool(config.get("quick_gelu"))
    if quick_gelu != architecture.quick_gelu:
        architecture = named(architecture.changed(name=f"{name}-quickgelu", quick_gelu=quick_gelu))
    repository = config.get("hf_hub", "").rpartition("/")[0]
    url = config.get("url")
    by_hand = f"fetch {url} there and run `kdx import FILE --architecture {name}`"
    remedy = _elsewhere(repository) if repository else f"on a machine with a network {by_hand}"
    weights = _download(lambda: hub.download_pretrained(config), f"{name}:{tag}", remedy)
    return Published(Path(weights), with_preprocess(architecture, config))


def _fetch_repository(repository: str) -> Published:
    def download(filename: str | None) -> Path:
        what, remedy = f"{PREFIX}{repository}", _elsewhere(repository)
        return Path(_download(lambda: hub.download_pretrained_from_hf(repository, filename), what, remedy))

    name = repository.rpartition("/")[2]
    architecture = open_clip_config(download("open_clip_config.json"), name)
    return Published(download(None), architecture)


def _download(download: Callable[[], Result], what: str, remedy: str) -> Result:
    with _cache_only_without_network() as unreachable:
        try:
            result = download()
        except Exception as error:  # each kind of network failure has a class of its own in another library
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            reason = unreachable or (reason if len(reason) <= 160 else f"{reason[:160]} …")
            raise SetupError(f"cannot be downloaded: {reason}", where=what, remedy=remedy) from None
    if not result:
        raise SetupError("open_clip names no place to download it from", where=what, remedy=remedy)
    return result


@contextlib.contextmanager
def _cache_only_without_network() -> Generator[str]:
    """Where the hub's name does not resolve, only the local cache is asked: huggingface_hub would retry for 30 s.

    Yields what is unreachable, or an empty text.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        if not getproxies():
            socket.getaddrinfo(host, 443)
    except OSError:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield f"{host} cannot be reached, and there is no copy in the cache"
        finally:
            constants.HF_HUB_OFFLINE = before
    else:
        yield ""


def _elsewhere(repository: str) -> str:
    return (
        f"on a machine with a network run `hf download {repository} --local-dir DIR`,"
        " bring DIR here and run `kdx import DIR`"
    )
