"""Configuration: TOML files with `extends`, `--set key=value`, checked by pydantic with one-line errors."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from .errors import DataError, UsageError
from .spelling import nearest

Table = dict[str, Any]
Join = Callable[[Table, Table], Table]
ConfigT = TypeVar("ConfigT", bound="Config")

# pydantic's name of a limit → how a remedy says it
_LIMITS = {
    "ge": "to {} or more",
    "gt": "above {}",
    "le": "to {} or less",
    "lt": "below {}",
    "expected": "to {}",
}


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values do not change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_toml(path: Path) -> Table:
    """One TOML file as a table. Raises UsageError with the line at fault."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError("there is no such file", where=path, remedy="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"is not valid TOML: {error}", where=path, remedy="correct the file") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from None


def merge(base: Table, over: Table) -> Table:
    """`over` laid on `base`: tables are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(cast(Table, old), cast(Table, value)) if both else value
    return merged


def read_extended(name: str, find: Callable[[str], Path], join: Join = merge) -> Table:
    """A TOML file merged over the files that it `extends`, the nearest winning key by key.

    `extends` is a name or a list of names; of a list the later ones win over the earlier ones. find: turns a name or
    path into the path of an existing file; a path in `extends`, which ends in .toml, starts at the folder of the file
    that says it. join: lays the second of two tables on the first. Raises UsageError.
    """
    return _read_extended(name, find, join, ())


def _read_extended(name: str, find: Callable[[str], Path], join: Join, chain: tuple[Path, ...]) -> Table:
    path = find(name)
    if any(path.resolve() == earlier.resolve() for earlier in chain):
        raise UsageError(
            f"extends itself through {' → '.join(p.name for p in chain)}",
            where=path,
            remedy="break the circle",
        )
    table = read_toml(path)
    merged: Table = {}
    for parent in _parents(table.pop("extends", []), path):
        merged = join(merged, _read_extended(parent, find, join, (*chain, path)))
    return join(merged, table)


def _parents(extends: Any, path: Path) -> list[str]:
    names = cast(list[Any], extends) if isinstance(extends, list) else [extends]
    if not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"extends = {extends!r}: expected names of files",
            where=path,
            remedy='for example extends = "base", or extends = ["base", "more"]',
        )
    return [str(path.parent / name) if name.endswith(".toml") else name for name in names]


def override(table: Table, settings: Iterable[str], join: Join = merge) -> Table:
    """Applies `a.b=value` settings (values in TOML; a bare word is a string). Raises UsageError."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise UsageError(
                f"--set {setting}: expected key=value", remedy="for example --set optimizer.lr=0.001"
            )
        value: Any = _toml_value(text)
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        table = join(table, value)
    return table


def parse(config: type[ConfigT], table: Table, where: str | Path) -> ConfigT:
    """Checks a table against a configuration. Raises UsageError naming the first key at fault, its value and a remedy.

    A validator that knows the remedy raises UsageError itself; one that does not, ValueError.
    """
    try:
        return config.model_validate(table)
    except UsageError as error:
        raise UsageError(error.what, where=where, remedy=error.remedy) from None
    except ValidationError as error:
        # a misspelt key explains best why another is missing
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        parts = [str(part) for part in first["loc"]]
        key, value = ".".join(parts), first["input"]
        if first["type"] == "extra_forbidden":
            remedy = _nearest(config, parts)
            raise UsageError(f"unknown key {key} = {_shortened(value)}", where=where, remedy=remedy) from None
        if first["type"] == "missing":
            raise UsageError(f"key {key} is missing", where=where, remedy=f"set {key}") from None
        message = first["msg"].removeprefix("Value error, ")
        if key:
            message = f"{key}: {message}" if isinstance(value, dict) else f"{key} = {value!r}: {message}"
        raise UsageError(message, where=where, remedy=_correction(key, first)) from None


def _correction(key: str, error: ErrorDetails) -> str:
    """The remedy for a value that pydantic refuses: its limit where it has one."""
    limits = error.get("ctx", {})
    for name, form in _LIMITS.items():
        if name in limits:
            limit = limits[name]
            return f"set {key} {form.format(f'{limit:g}' if isinstance(limit, float) else limit)}"
    return f"correct {key or 'the file'}"


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nearest(config: type[BaseModel], parts: list[str]) -> str:
    """The remedy for an unknown key: where that name is known, the nearest one in the same table, or all of them."""
    tables = dict(_tables(config))
    table = ".".join(parts[:-1])
    if table not in tables:
        return "remove it"
    elsewhere = [
        _dotted(other, parts[-1]) for other, model in tables.items() if parts[-1] in model.model_fields
    ]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    known = list(tables[table].model_fields)
    close = nearest(
        parts[-1], [*known, "extends"] if not table else known
    )  # files may say it, tables inside not
    return f"did you mean {_dotted(table, close)}?" if close else f"known keys: {', '.join(sorted(known))}"


def _tables(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A configuration and the tables inside it, each with the dotted name of its place."""
    yield prefix, config
    for name, field in config.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _tables(inner, _dotted(prefix, name))


def _dotted(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key
