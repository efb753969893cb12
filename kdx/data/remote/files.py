"""Files at URLs, through fsspec: every request has a time limit, and is made again when what went wrong may pass."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdx.core.ahead import decoding_pool, running_ahead
from kdx.core.digests import file_digest
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.urls import shown, url_of

from .faults import CutShort, changed, fault_of

T = TypeVar("T")

log = logging.getLogger(__name__)

ATTEMPTS = 4
WAIT = 0.5  # seconds before the second one, and twice as many before each further one
TIMEOUT = 60.0  # seconds for an answer, all of it
PIECES_AHEAD = 4
PIECE = 2**22  # bytes that are asked for at a time, so that TIMEOUT allows for 70 KB/s
MAX_TEXT = 2**26
# what the file systems of fsspec say about which version of a file this is
VERSION_FIELDS = (
    "ETag", "etag", "LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created",
    "generation", "md5Hash", "content-md5", "Content-MD5", "blob_id", "xet_hash",
)  # fmt: skip


@dataclass(frozen=True)
class RemoteFile:
    """A file as it was when it was looked at. version: what its place says about that, maybe nothing.

    condition: a header of HTTP by which a server refuses to answer from another version.
    """

    url: str
    size: int
    version: str
    condition: tuple[str, str] | None = None

    @property
    def stamp(self) -> int:
        """A number for the version: another one for another version."""
        return int.from_bytes(hashlib.sha256(self.version.encode()).digest()[:7])


def look_at(url: str) -> RemoteFile:
    """Raises DataError if there is no such file, SetupError where it cannot be asked."""
    system, path = _file_system(url)
    info = _asked(url, lambda: _call(system, "info", path))
    if info.get("type") == "directory":
        raise DataError("is a folder, not a file", where=url, remedy="check the URL")
    if not isinstance(size := info.get("size"), int):
        raise DataError(
            "the server does not say how large this is", where=url, remedy="copy it to this machine"
        )
    said = [f"{name}={info[name]}" for name in VERSION_FIELDS if info.get(name)]
    return RemoteFile(url, size, " ".join(said), _condition(info) if _is_web(url) else None)


def check_unchanged(file: RemoteFile) -> None:
    """Raises DataError if there is another version now."""
    system, _ = _file_system(file.url)
    system.invalidate_cache()
    if look_at(file.url) != file:
        raise changed(file.url)


def read_part(file: RemoteFile, start: int, end: int) -> bytes:
    """Raises DataError if the file has changed, where that shows, SetupError if the server gives no parts of files."""
    content = _answer(file, start, end)
    if len(content) != end - start:
        raise SetupError(
            "the server gives no parts of files, and the set does not fit the shard cache",
            where=file.url,
            remedy="let the cache be larger (KDX_SHARD_CACHE_SIZE), or copy the set to this machine",
        )
    return content


def read_pieces(file: RemoteFile) -> Iterator[bytes]:
    """All of a file, from its start to its end; some pieces are asked for ahead."""
    first = _answer(file, 0, min(PIECE, file.size))
    yield first
    rest = range(len(first), file.size, PIECE)
    with decoding_pool(PIECES_AHEAD) as pool:
        asked = (pool.submit(_answer, file, start, min(start + PIECE, file.size)) for start in rest)
        for piece in running_ahead(asked, PIECES_AHEAD):
            content = piece.result()
            if len(content) > PIECE:
                raise changed(file.url)
            yield content


def read_text(url: str) -> bytes | None:
    """A small file; None where there is none, or none for us: some stores refuse what is not there."""
    system, path = _file_system(url)

    def ask() -> bytes | None:
        try:
            return _call(system, "cat_file", path)
        except Exception as error:
            if fault_of(error, url).absent:
                return None
            raise

    content = _asked(url, ask)
    if content is not None and len(content) > MAX_TEXT:
        raise DataError("is too large for a text beside shards", where=url, remedy="check the file")
    return content


def digest_of(place: Path) -> str | None:
    """sha256 (hex) of what lies at a path or URL now, whatever the cache of shards holds; None where nothing does.

    Raises OSError and SetupError where it cannot be read.
    """
    if (url := url_of(place)) is None:
        return file_digest(place) if place.is_file() else None
    try:
        file = look_at(url)
    except DataError:
        return None
    digest = hashlib.sha256()
    for piece in read_pieces(file):
        digest.update(piece)
    return digest.hexdigest()


def upload(path: Path, url: str) -> None:
    """Copies a file there, over one that is there. Raises SetupError where nothing can be written."""
    system, place = _file_system(url)

    def put() -> None:
        try:
            system.put_file(str(path), place)
        except FileNotFoundError:  # most stores have no folders that must be there
            system.makedirs(place.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), place)

    _asked(url, put)
    system.invalidate_cache()
    if look_at(url).size != path.stat().st_size:
        raise SetupError("is not what was written there", where=url, remedy="run again")


def check_writable(url: str) -> None:
    """Raises UsageError for a protocol that only reads."""
    if _is_web(url):
        raise UsageError(
            "nothing can be written over http", where=url, remedy="name a folder, or a store such as s3://"
        )


def tars_in(folder: str) -> list[str]:
    """URLs of the tars in a folder. Raises DataError where there is no list of its files."""
    return [url for url in _listed(folder) if url.endswith(".tar")]


def tars_below(folder: str) -> list[str]:
    """Those in its subfolders too; over http none, where a list is a page with links to anywhere."""
    if _is_web(folder):
        return []
    system, path = _file_system(folder)
    found = _asked(folder, lambda: _call(system, "find", path))
    return [url for url in map(system.unstrip_protocol, found) if url.endswith(".tar")]


def matching(pattern: str) -> list[str]:
    """URLs that a pattern with stars in its last part means. Raises DataError where there is no list of files."""
    folder, _, name = pattern.rpartition("/")
    return [url for url in _listed(folder) if fnmatch.fnmatchcase(url.rpartition("/")[2], name)]


def _listed(folder: str) -> list[str]:
    system, path = _file_system(folder)
    system.invalidate_cache()  # of what a list said before
    try:
        names = _asked(folder, lambda: _call(system, "ls", path, detail=False))
    except DataError:
        if not _is_web(folder):
            raise DataError("there is no such folder", where=folder, remedy="check the URL") from None
        names = []
    urls = [system.unstrip_protocol(name) for name in names]
    if _is_web(folder) and not any(url.endswith(".tar") for url in urls):
        raise DataError(
            "the server gives no list of shards",
            where=folder,
            remedy=f"name them: {shown(folder).rstrip('/')}/{{00000..00099}}.tar",
        )
    return urls


def _answer(file: RemoteFile, start: int, end: int) -> bytes:
    """These bytes, or all of the file from a server that gives no parts."""
    system, path = _file_system(file.url)
    options: dict[str, Any] = {}
    if _is_web(file.url):
        headers = {"Accept-Encoding": "identity"}
        options["headers"] = headers if file.condition is None else headers | dict([file.condition])

    def ask() -> bytes:
        content = _call(system, "cat_file", path, start=start, end=end, **options)
        if len(content) not in (end - start, file.size):
            raise CutShort
        return content

    return _asked(file.url, ask)


def _asked(url: str, ask: Callable[[], T]) -> T:
    wait = WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except (TypeError, AttributeError, NameError, AssertionError):
            raise
        except Exception as error:
            fault = fault_of(error, url)
            if attempt == ATTEMPTS or not fault.passing:
                raise fault.error from None
            log.info("%s: %s; asked again in %.1f s", shown(url), fault.error.what, wait)
        time.sleep(wait)
        wait *= 2
    raise AssertionError


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's, which keeps one for each protocol, and the path in it."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = url.partition(":")[0]
    try:
        return url_to_fs(url, **(_web_options() if _is_web(url) else {}))
    except ImportError:
        package = known_implementations[protocol]["class"].partition(".")[0]
        wanted = "pip install 'kdx[remote]'" if package == "fsspec" else f"pip install {package}"
        raise SetupError(
            f"{protocol}:// needs a package that is not installed", where=url, remedy=wanted
        ) from None
    except ValueError as error:
        if "not known" not in str(error):
            raise UsageError(f"is no URL: {shown(str(error))}", where=url, remedy="check it") from None
        raise UsageError(
            f"{protocol}:// is no protocol that fsspec knows",
            where=url,
            remedy="use another one, or copy the set to this machine",
        ) from None
    except Exception as error:
        raise fault_of(error, url).error from None


def _web_options() -> dict[str, Any]:
    """The environment's proxies and ~/.netrc count, as for other programs."""
    from fsspec.config import conf

    said = {**conf.get("http", {}), **conf.get("https", {})}
    return {"client_kwargs": {"trust_env": True, **said.get("client_kwargs", {})}}


def _call(system: Any, method: str, path: str, **options: Any) -> Any:
    """With the time limit where the package is asynchronous; others have limits of their own."""
    if not system.async_impl:
        return getattr(system, method)(path, **options)
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, f"_{method}"), path, timeout=TIMEOUT, **options)


def _condition(info: dict[str, Any]) -> tuple[str, str] | None:
    etag = info.get("ETag")
    if etag and not etag.startswith("W/"):  # a weak one never matches
        return "If-Match", etag
    return ("If-Unmodified-Since", info["Last-Modified"]) if info.get("Last-Modified") else None


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))
