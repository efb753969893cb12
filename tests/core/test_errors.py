"""Facts of kdx/core/errors.py: what an error says."""

import json
import pickle
from pathlib import Path

import pytest

from kdx.core.errors import DataError, GateError, KdxError, SetupError, UsageError


def test_an_error_says_where_and_what_and_keeps_the_remedy_apart() -> None:
    error = DataError("is broken", where=Path("shards/a.tar"), remedy="copy it again")
    assert str(error) == "shards/a.tar: is broken"
    assert (error.what, error.where, error.remedy) == ("is broken", "shards/a.tar", "copy it again")
    assert str(UsageError("cannot be")) == "cannot be" and UsageError("cannot be").where is None


def test_every_kind_is_caught_as_one_and_has_its_own_exit_code() -> None:
    kinds = (KdxError, UsageError, GateError, DataError, SetupError)
    assert all(issubclass(kind, KdxError) for kind in kinds)
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [UsageError, GateError, DataError, SetupError])
@pytest.mark.parametrize(("where", "remedy"), [("a/b.onnx", "make it again"), (None, None)])
def test_an_error_crosses_a_process_as_json_and_keeps_its_owner(
    kind: type[KdxError], where: str | None, remedy: str | None
) -> None:
    error = kind("does not open", where=where, remedy=remedy)
    arrived = KdxError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(arrived) is kind and str(arrived) == str(error)
    assert (arrived.what, arrived.where, arrived.remedy) == ("does not open", where, remedy)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"class": "KeyboardInterrupt", "what": "x", "where": None, "remedy": None},
        {"class": "DataError", "what": None, "where": None, "remedy": None},
        {"class": "DataError", "what": "x", "where": 3, "remedy": None},
    ],
)
def test_what_is_no_error_of_kdx_is_not_read_as_one(fields: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        KdxError.from_dict(fields)


def test_an_error_survives_pickling_as_multiprocessing_does_it() -> None:
    error = pickle.loads(pickle.dumps(SetupError("no space", where="/tmp", remedy="make room")))
    assert (type(error), error.what, error.where, error.remedy) == (
        SetupError,
        "no space",
        "/tmp",
        "make room",
    )
