"""URLs where paths are taken. A place is a Path everywhere, and `Path("s3://bucket/set")` keeps all of a URL but one
slash; `url_of` gives the URL back. So a URL with two slashes in a row behind its beginning is another one here.
"""

from __future__ import annotations

import re
from pathlib import Path

SCHEME = r"([a-z][a-z0-9+.-]+):/+"  # of two letters at least
URL = re.compile(SCHEME + r"([^/].*)?", re.DOTALL)
IN_TEXT = re.compile(r"(?:^|(?<=::)|(?<=[\s'\"(=]))" + SCHEME + r"((?:(?!::)[^\s'\"])*)")
USER = re.compile(r"[^/@:]*:[^/@]*@")  # with a password
ANY_USER = re.compile(r"[^/@]*@")  # a token; of other schemes it may be the name of a container
QUERY = re.compile(r"\?[^#]*")  # where signatures are
WEB = {"http", "https"}


def url_of(place: str | Path) -> str | None:
    """The URL that a place is; None for a path."""
    found = URL.fullmatch(str(place))
    return None if found is None else _joined(found[1], found[2] or "")


def shown(place: str | Path) -> str:
    """A place, or a text with places in it, for people to read: URLs as they are typed, without what is secret."""
    return IN_TEXT.sub(lambda found: _shown(found[1], found[2]), str(place))


def file_name(place: Path) -> str:
    """The name of a file; that of a URL without its query, which may hold a signature."""
    url = url_of(place)
    return place.name if url is None else _without_query(url).rpartition("/")[2]


def _joined(scheme: str, rest: str) -> str:
    return f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def _shown(scheme: str, rest: str) -> str:
    rest = (ANY_USER if scheme in WEB else USER).sub("", rest, count=1) if "@" in rest else rest
    return _joined(scheme, QUERY.sub("?…", rest) if scheme in WEB else rest)


def _without_query(url: str) -> str:
    return url.partition("?")[0] if url.partition(":")[0] in WEB else url
