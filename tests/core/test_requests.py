"""Facts of kdx/core/requests.py: what may be asked of any model, and how an error names what is wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdx.core.errors import DataError, KdxError, UsageError
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.core.requests import (
    at_item,
    beginning,
    check_count,
    check_images,
    check_labels,
    check_templates,
    check_texts,
    item_index,
    move_item,
)

PICTURE = Image.new("RGB", (4, 4))


def test_images_may_be_paths_bytes_and_pictures_in_any_iterable() -> None:
    images = ["a.jpg", Path("b.jpg"), b"\xff\xd8", PICTURE]
    for given in (images, tuple(images), iter(images), dict.fromkeys(images[:3])):
        assert list(check_images(given)) == list(images if not isinstance(given, dict) else given)


@pytest.mark.parametrize("images", ["cat.jpg", Path("cat.jpg"), b"\xff\xd8", PICTURE, None, 5, np.array(1)])
def test_one_image_in_place_of_a_list_is_refused(images: Any) -> None:
    with pytest.raises(UsageError) as caught:
        check_images(images)
    assert caught.value.what.startswith("images is ") and caught.value.remedy


@pytest.mark.parametrize("image", [None, 3, np.zeros((4, 4, 3), np.uint8), io.BytesIO(b"x"), ["a.jpg"]])
def test_what_is_no_image_is_refused_by_its_number(image: Any) -> None:
    for images in ([b"x", image], iter([b"x", image])):
        with pytest.raises(UsageError) as caught:
            list(check_images(images))
        assert caught.value.where == "images[1]" and caught.value.remedy


def test_a_list_of_images_is_checked_before_the_first_is_used() -> None:
    with pytest.raises(UsageError):
        check_images([b"x", None])  # type: ignore[list-item]


@pytest.mark.parametrize("texts", ["a dog", b"a dog", None, 5])
def test_one_string_in_place_of_a_list_is_refused_and_not_split_into_letters(texts: Any) -> None:
    checks: dict[str, Any] = {"texts": check_texts, "labels": check_labels, "templates": check_templates}
    for field, check in checks.items():
        if texts is None and check is check_templates:
            continue  # the default
        with pytest.raises(UsageError) as caught:
            check(texts)
        assert caught.value.what.startswith(f"{field} is ")


@pytest.mark.parametrize("text", [None, 1, b"dog", "a\ud800", ["dog"]])
def test_what_is_no_text_is_refused_by_its_number(text: Any) -> None:
    for check, field in ((check_texts, "texts"), (check_labels, "labels"), (check_templates, "templates")):
        with pytest.raises(UsageError) as caught:
            check(["a {}", text])
        assert caught.value.where == f"{field}[1]"


def test_texts_may_be_empty_and_many_things_that_hold_strings() -> None:
    for texts in (["", "naïve 🙂"], ("", "naïve 🙂"), np.array(["", "naïve 🙂"]), iter(["", "naïve 🙂"])):
        assert check_texts(texts) == ["", "naïve 🙂"]
    assert check_texts([]) == []


def test_labels_may_stand_twice_but_not_be_missing_or_blank() -> None:
    assert check_labels(["missile", "cat", "missile"]) == ["missile", "cat", "missile"]
    with pytest.raises(UsageError):
        check_labels([])
    with pytest.raises(UsageError) as caught:
        check_labels(["cat", " \t"])
    assert caught.value.where == "labels[1]"


def test_templates_hold_the_place_of_the_label() -> None:
    assert check_templates(None) == list(DEFAULT_TEMPLATES)
    assert check_templates(["{}", "{} and {}", "{a} {}"]) == ["{}", "{} and {}", "{a} {}"]
    for templates, where in (([], None), (["a {}", "a photo"], "templates[1]"), (["{0}"], "templates[0]")):
        with pytest.raises(UsageError) as caught:
            check_templates(templates)
        assert caught.value.where == where


def test_counts_are_whole_numbers_from_one() -> None:
    assert [check_count(value, "top_k") for value in (1, 7, np.int64(3), np.int32(2))] == [1, 7, 3, 2]
    for wrong in (0, -1, 2.0, "3", None, True, np.float32(2)):
        with pytest.raises(UsageError) as caught:
            check_count(wrong, "top_k")  # type: ignore[arg-type]
        assert "top_k" in caught.value.what


def test_no_error_shows_more_than_the_beginning_of_a_value() -> None:
    long = "x" * 10**6
    for call in (
        lambda: check_texts(long),
        lambda: check_texts([long.encode()]),  # type: ignore[list-item]
        lambda: check_texts([long + "\ud800"]),
        lambda: check_templates([long]),
        lambda: check_images(long),
        lambda: check_images([[long]]),  # type: ignore[list-item]
        lambda: check_images([np.zeros((1,) * 64)]),  # type: ignore[list-item]
        lambda: check_count(long, "top_k"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert len(str(caught.value)) < 300


def test_the_beginning_of_a_text_is_one_line_and_says_that_more_follows() -> None:
    assert beginning("a\nb  c") == "a b c"
    assert beginning("x" * 60) == "x" * 60 and beginning("x" * 61) == "x" * 59 + "…"
    assert beginning("a" + " " * 1000 + "b") == "a…"


def test_an_error_names_its_item_and_the_file_there() -> None:
    error = DataError("is not an image", where="image of 9 bytes", remedy="convert it")
    named = at_item(error, "images", 3)
    assert (type(named), named.where, named.what) == (DataError, "images[3]", "is not an image")
    assert named.remedy == "convert it"
    for path in ("cat.jpg", Path("cat.jpg")):
        assert at_item(error, "images", 3, path).where == "images[3] (cat.jpg)"
    assert len(str(at_item(DataError("x" * 10**6), "images", 0, "y" * 10**6))) < 500


def test_an_error_of_a_batch_is_moved_to_its_place_among_all() -> None:
    error = DataError("is not an image", where="images[1]")
    assert item_index(error, "images") == 1 and item_index(error, "texts") is None
    assert move_item(error, "images", 32, [b"x", "cat.jpg"]).where == "images[33] (cat.jpg)"
    for other in (KdxError("x"), DataError("x", where="labels[1]"), DataError("x", where="images[7]")):
        assert move_item(other, "images", 32, [b"x", b"y"]) is other
