"""Facts of kdx/core/config.py. Recipes (tests/distill/test_recipe.py) show it at work."""

from pathlib import Path

import pytest
from pydantic import field_validator

from kdx.core.config import Config, merge, override, parse, read_extended
from kdx.core.errors import UsageError


class Inner(Config):
    rate: float = 1.0


class Outer(Config):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None


def test_merge_goes_into_tables_and_replaces_the_rest() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 3}
    assert merge(base, {"a": {"y": 5}, "b": [9], "d": 4}) == {"a": {"x": 1, "y": 5}, "b": [9], "c": 3, "d": 4}
    assert base["a"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a.b=1.5", {"a": {"b": 1.5}}),
        ("a=word", {"a": "word"}),
        ('a="1"', {"a": "1"}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=x=y", {"a": "x=y"}),
        ("a=true", {"a": True}),
    ],
)
def test_settings_are_toml_values_or_bare_words(setting: str, expected: dict[str, object]) -> None:
    assert override({}, [setting]) == expected


@pytest.mark.parametrize("setting", ["a", "=1", "a..b=1", ""])
def test_a_setting_without_key_or_value_is_refused(setting: str) -> None:
    with pytest.raises(UsageError) as caught:
        override({}, [setting])
    assert setting in caught.value.what


def test_the_nearest_known_key_is_named_at_any_depth() -> None:
    with pytest.raises(UsageError) as caught:
        parse(Outer, {"name": "x", "maybe": {"rat": 1}}, "file.toml")
    assert str(caught.value) == "file.toml: unknown key maybe.rat = 1"
    assert caught.value.remedy == "did you mean maybe.rate?"


def test_a_misspelt_key_is_named_before_the_one_that_it_should_be() -> None:
    with pytest.raises(UsageError, match=r"\bnam\b") as caught:
        parse(Outer, {"nam": "x"}, "file.toml")
    assert caught.value.remedy == "did you mean name?"


def test_a_wrong_type_is_named_with_its_value() -> None:
    with pytest.raises(UsageError, match=r"inner.rate = 'fast'"):
        parse(Outer, {"name": "x", "inner": {"rate": "fast"}}, "file.toml")


def test_the_nearest_file_of_a_chain_wins(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("a = 1\n[t]\nx = 1\ny = 1\n")
    (tmp_path / "middle.toml").write_text('extends = "base"\n[t]\ny = 2\n')
    (tmp_path / "top.toml").write_text('extends = "middle"\na = 3\n')
    table = read_extended("top", lambda name: tmp_path / f"{name}.toml")
    assert table == {"a": 3, "t": {"x": 1, "y": 2}}


def test_of_several_parents_the_later_wins_and_the_file_over_both(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("a = 1\nb = 1\n[t]\nx = 1\n")
    (tmp_path / "two.toml").write_text('extends = "three"\nb = 2\n')
    (tmp_path / "three.toml").write_text("b = 3\nc = 3\n[t]\ny = 3\n")
    (tmp_path / "top.toml").write_text('extends = ["one", "two"]\n[t]\nx = 9\n')
    table = read_extended("top", lambda name: tmp_path / f"{name}.toml")
    assert table == {"a": 1, "b": 2, "c": 3, "t": {"x": 9, "y": 3}}


def test_a_file_may_be_reached_twice_but_not_through_itself(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("a = 1\n")
    (tmp_path / "left.toml").write_text('extends = "base"\n')
    (tmp_path / "right.toml").write_text('extends = ["base", "left"]\n')
    assert read_extended("right", lambda name: tmp_path / f"{name}.toml") == {"a": 1}
    (tmp_path / "base.toml").write_text('extends = ["right"]\n')
    with pytest.raises(UsageError, match=r"right\.toml"):
        read_extended("right", lambda name: tmp_path / f"{name}.toml")


def test_a_validators_own_remedy_is_kept_and_the_file_added() -> None:
    class Picky(Config):
        size: int

        @field_validator("size")
        @classmethod
        def _refuse(cls, size: int) -> int:
            raise UsageError(f"size = {size}: no", remedy="another one")

    with pytest.raises(UsageError) as caught:
        parse(Picky, {"size": 3}, "file.toml")
    assert (str(caught.value), caught.value.remedy) == ("file.toml: size = 3: no", "another one")


def test_a_path_that_is_extended_starts_at_the_file_that_says_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.toml").write_text("a = 1\n")
    (tmp_path / "sub" / "top.toml").write_text('extends = "../base.toml"\nb = 2\n')
    assert read_extended(str(tmp_path / "sub" / "top.toml"), Path) == {"a": 1, "b": 2}


@pytest.mark.parametrize("again", ["a.toml", "./a.toml", "sub/../a.toml"])
def test_a_circle_is_named_however_it_is_spelled(tmp_path: Path, again: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text(f'extends = "{again}"\n')
    with pytest.raises(UsageError, match=r"a\.toml.*b\.toml"):
        read_extended(str(tmp_path / "a.toml"), Path)


@pytest.mark.parametrize("extends", ["3", "[3]", "{}"])
def test_only_a_name_can_be_extended(tmp_path: Path, extends: str) -> None:
    (tmp_path / "a.toml").write_text(f"extends = {extends}\n")
    with pytest.raises(UsageError) as caught:
        read_extended(str(tmp_path / "a.toml"), Path)
    assert caught.value.where == str(tmp_path / "a.toml")


def test_infinity_is_no_number_of_a_configuration() -> None:
    with pytest.raises(UsageError, match=r"inner.rate = inf"):
        parse(Outer, {"name": "x", "inner": {"rate": float("inf")}}, "file.toml")
