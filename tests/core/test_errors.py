"""Facts of kdx/core/errors.py: what an error says."""

from pathlib import Path

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
