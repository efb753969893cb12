"""open_clip's published models by name, from the Hugging Face hub or the address that open_clip knows."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from open_clip import pretrained as hub

from kdx.core.errors import DataError, SetupError, UsageError, beginning
from kdx.core.folders import read_json
from kdx.core.spelling import nearest
from kdx.core.tokenizers.hugging_face import TOKENIZER_FILE

from ..architectures import Architecture, read_architecture
from ..clip_configuration import check_supported
from ..open_clip_architectures import from_open_clip, with_preprocess
from .hugging_face_tokenizer import CONFIG_FILE, SPECIALS_FILE
from .known import named
from .preprocessing import read_open_clip_preprocess

PREFIX = "hf-hub:"
OPEN_CLIP_CONFIG = "open_clip_config.json"


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


def fetch_tokenizer(repository: str) -> Path:
    """The folder in the cache with the tokenizer of a Hugging Face repository.

    Raises DataError for a repository that has none for the `tokenizers` library, SetupError when the download fails.
    """
    unreachable = _unreachable_hub()
    folder: Path | None = None
    for file in (TOKENIZER_FILE, CONFIG_FILE, SPECIALS_FILE):
        try:
            folder = Path(hf_hub_download(repository, file, local_files_only=bool(unreachable))).parent
        except Exception as error:  # each kind of network failure has a class of its own in another library
            absent = isinstance(error, EntryNotFoundError)
            if absent and folder and (unreachable or not isinstance(error, LocalEntryNotFoundError)):
                continue  # the settings beside a tokenizer.json are as its class has them
            if absent and not isinstance(error, LocalEntryNotFoundError):
                raise DataError(
                    "has a tokenizer that runs in Python alone, and no tokenizer.json",
                    where=repository,
                    remedy="write the file with transformers, AutoTokenizer.from_pretrained(NAME).save_pretrained(DIR),"
                    " and give DIR",
                ) from None
            raise SetupError(
                f"its tokenizer cannot be downloaded: {unreachable or _first_line(error)}",
                where=repository,
                remedy=f"on a machine with a network run `hf download {repository} --include 'tokenizer*' "
                f"{SPECIALS_FILE} --local-dir DIR`, bring DIR here and give --tokenizer DIR",
            ) from None
    return cast(Path, folder)


def _fetch_tag(name: str, tag: str) -> Published:
    name = name.replace("/", "-")  # open_clip takes OpenAI's spelling ViT-B/32 too
    architecture = read_architecture(name)
    config = hub.get_pretrained_cfg(name, tag)
    if not config:
        tags = hub.list_pretrained_tags_by_model(name)
        close = nearest(tag, tags) or next(iter(tags), None)
        remedy = f"did you mean {name}:{close}?" if close else "see open_clip.list_pretrained()"
        raise UsageError(f"open_clip has no weights {tag!r} of {name}", remedy=remedy)
    # the tag knows what the weights were trained with; open_clip itself goes by the name and only warns. A tag that
    # says nothing does not deny it: roberta-ViT-B-32 has QuickGELU by its name
    if config.get("quick_gelu") and not architecture.quick_gelu:
        architecture = named(architecture.changed(name=f"{name}-quickgelu", quick_gelu=True))
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if repository:
        weights = _from_hub(repository, file or hub.HF_WEIGHTS_NAME, f"{name}:{tag}")
    else:
        weights = _from_url(config, name, tag)
    return Published(weights, with_preprocess(architecture, config))


def _fetch_repository(repository: str) -> Published:
    what, name = f"{PREFIX}{repository}", repository.rpartition("/")[2]
    if _lacks(repository, OPEN_CLIP_CONFIG):
        raise DataError(
            f"is no repository of open_clip: it has no {OPEN_CLIP_CONFIG}",
            where=what,
            remedy=f"run `hf download {repository} --local-dir DIR` and give DIR, a Hugging Face model, or the weight"
            " file in it",
        )
    architecture = open_clip_config(_from_hub(repository, OPEN_CLIP_CONFIG, what), name)
    return Published(_from_hub(repository, hub.HF_WEIGHTS_NAME, what), architecture)


def _lacks(repository: str, file: str) -> bool:
    """Whether the hub says so; not where it cannot be asked."""
    try:
        hf_hub_download(repository, file, local_files_only=bool(_unreachable_hub()))
    except LocalEntryNotFoundError:
        return False
    except Exception as error:  # each kind of network failure has a class of its own in another library
        return isinstance(error, EntryNotFoundError)
    return False


def _from_hub(repository: str, file: str, what: str) -> Path:
    """A file of a repository, its safetensors form first where it has one, as open_clip looks for it."""
    unreachable = _unreachable_hub()
    names = [file] if file.endswith(".json") else [*hub._get_safe_alternatives(file), file]
    reason = ""
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=bool(unreachable)))
        except Exception as error:  # each kind of network failure has a class of its own in another library
            reason = unreachable or _first_line(error)
    raise SetupError(f"cannot be downloaded: {reason}", where=what, remedy=_elsewhere(repository))


def _from_url(config: dict[str, Any], name: str, tag: str) -> Path:
    url = config.get("url")
    if not url:
        raise SetupError("open_clip names no place to download it from", where=f"{name}:{tag}")
    try:
        return Path(hub.download_pretrained(config))
    except Exception as error:  # urllib's, and open_clip's own of a wrong digest
        raise SetupError(
            f"cannot be downloaded: {_first_line(error)}",
            where=f"{name}:{tag}",
            remedy=f"on a machine with a network fetch {url} and run `kdx import FILE --architecture {name}`",
        ) from None


def _unreachable_hub() -> str:
    """Why only the local cache is asked, since huggingface_hub would try for 30 s; empty where the name resolves."""
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        if not getproxies():
            socket.getaddrinfo(host, 443)
    except OSError:
        return f"{host} cannot be reached, and there is no copy in the cache"
    return ""


def _first_line(error: Exception) -> str:
    return beginning((str(error).strip().splitlines() or [type(error).__name__])[0], 160)


def _elsewhere(repository: str) -> str:
    return (
        f"on a machine with a network run `hf download {repository} --local-dir DIR`,"
        " bring DIR here and run `kdx import DIR`"
    )
