"""Configuration: TOML files with `extends`, `--set key=value`, checked by pydantic with one-line errors."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import DataError, UsageError

Table = dict[str, Any]
ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values do not change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_toml(path: Path) -> Table:
    """One TOML file as a table. Raises UsageError with the line at fault."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("there is no such file", where=path, remedy="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"is not valid TOML: {error}", where=path, remedy="correct the file") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, remedy="check the path") from None


def read_extended(name: str, find: Callable[[str], Path]) -> Table:
    """A TOML file merged over the files that it `extends`, the nearest winning key by key.

    find: turns a name or path into the path of an existing file. A path in `extends`, which ends in .toml, starts
    at the folder of the file that says it.
    """
    chain: list[Path] = []
    tables: list[Table] = []
    following: str | None = name
    while following is not None:
        path = find(following)
        if any(path.resolve() == earlier.resolve() for earlier in chain):
            raise UsageError(
                f"extends itself through {' → '.join(p.name for p in chain)}",
                where=path,
                remedy="break the circle",
            )
        chain.append(path)
        table = read_toml(path)
        following = _extended(path, table.pop("extends", None))
        tables.append(table)
    merged: Table = {}
    for table in reversed(tables):
        merged = merge(merged, table)
    return merged


def _extended(path: Path, extends: Any) -> str | None:
    if extends is not None and not isinstance(extends, str):
        raise UsageError(f"extends = {extends!r} is no name", where=path, remedy="name one recipe or file")
    return str(path.parent / extends) if extends is not None and extends.endswith(".toml") else extends


def merge(base: Table, over: Table) -> Table:
    """`over` laid on `base`: tables are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(cast(Table, old), cast(Table, value)) if both else value
    return merged


def override(table: Table, settings: Iterable[str]) -> Table:
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
        table = merge(table, value)
    return table


def parse(config: type[ConfigT], table: Table, where: str | Path) -> ConfigT:
    """Checks a table against a configuration. Raises UsageError naming the first key at fault."""
    try:
        return config.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        key = ".".join(parts)
        if first["type"] == "extra_forbidden":
            remedy = _nearest(config, parts)
            raise UsageError(f"unknown key {key}", where=where, remedy=remedy) from None
        if first["type"] == "missing":
            raise UsageError(f"key {key} is missing", where=where, remedy=f"set {key}") from None
        message = first["msg"].removeprefix("Value error, ")
        what = f"{key} = {first['input']!r}: {message}" if key else message
        raise UsageError(what, where=where, remedy=f"correct {key or 'the file'}") from None


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nearest(config: type[BaseModel], parts: list[str]) -> str:
    """The remedy for an unknown key: the nearest known one in the same table, or all of them."""
    model: type[BaseModel] = config
    for part in parts[:-1]:
        field = model.model_fields.get(part)
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        tables = [a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)]
        if not tables:
            return "remove it"
        model = tables[0]
    known = list(model.model_fields)
    prefix = "".join(f"{part}." for part in parts[:-1])
    close = difflib.get_close_matches(parts[-1], known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(sorted(known))}"
