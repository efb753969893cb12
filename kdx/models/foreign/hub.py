"""open_clip's published models by name, through open_clip's own download functions."""

from __future__ import annotations

import contextlib
import difflib
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import read_json

from ..architectures import Architecture
from ..torchvision_ops import ensure_torchvision_imports
from .known import find_architecture, from_open_clip, named, why_not

ensure_torchvision_imports()

from open_clip import pretrained as hub  # noqa: E402

PREFIX = "hf-hub:"
PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")
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

    Raises UsageError for unknown names and tags, DataError for models that kdx cannot build (before anything large
    is downloaded), SetupError when the download fails.
    """
    if source.startswith(PREFIX):
        return _fetch_repository(source.removeprefix(PREFIX))
    return _fetch_tag(*source.split(":", 1))


def open_clip_config(path: Path) -> Architecture:
    """The architecture in an `open_clip_config.json`, by the name of the known one if there is one.

    Raises DataError.
    """
    config = read_json(path)
    model, preprocess = config.get("model_cfg"), config.get("preprocess_cfg", {})
    parts = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(model, dict) or not all(part in model for part in parts):
        raise DataError(f"has no model_cfg with {', '.join(parts)}", where=path, remedy="get the file again")
    if reason := why_not(model):
        raise _unsupported(reason, str(path))
    try:
        described = named(from_open_clip(path.parent.name, model))
    except TypeError as error:
        raise DataError(f"describes no model: {error}", where=path, remedy="get the file again") from None
    return with_preprocess(described, preprocess)


def with_preprocess(architecture: Architecture, settings: dict[str, Any]) -> Architecture:
    """The architecture with the preprocessing that a publisher states; colour mode and padding are not settings."""
    given = {field: settings[field] for field in PREPROCESS_FIELDS if field in settings}
    return {**architecture, "preprocess_cfg": given} if given else architecture


def _fetch_tag(name: str, tag: str) -> Published:
    architecture = find_architecture(name)
    name = architecture["name"]
    config = hub.get_pretrained_cfg(name, tag)
    if not config:
        tags = hub.list_pretrained_tags_by_model(name)
        close = difflib.get_close_matches(tag, tags, n=1) or tags
        remedy = f"did you mean {name}:{close[0]}?" if close else "see open_clip.list_pretrained()"
        raise UsageError(f"open_clip has no weights {tag!r} of {name}", remedy=remedy)
    if reason := why_not(architecture):
        raise _unsupported(reason, f"{name}:{tag}")
    # the tag knows what the weights were trained with; open_clip itself goes by the name and only warns
    quick_gelu = bool(config.get("quick_gelu"))
    if quick_gelu != bool(architecture.get("quick_gelu")):
        architecture = named({**architecture, "name": f"{name}-quickgelu", "quick_gelu": quick_gelu})
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

    architecture = open_clip_config(download("open_clip_config.json"))
    if architecture["name"] not in _known_names():
        architecture = {**architecture, "name": repository.rpartition("/")[2]}
    return Published(download(None), architecture)


def _known_names() -> set[str]:
    from .known import known_architectures

    return {known["name"] for known in known_architectures()}


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


def _unsupported(reason: str, where: str) -> DataError:
    return DataError(
        f"is a model that kdx cannot build: {reason}", where=where, remedy="take one with CLIP's text tower"
    )
