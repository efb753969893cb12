"""Facts of kdx/core/spelling.py."""

from kdx.core.spelling import count_of, nearest


def test_the_known_word_that_is_most_like_it_is_found() -> None:
    assert nearest("exprot", ["eval", "export", "exported"]) == "export"


def test_a_word_like_none_has_no_nearest() -> None:
    assert nearest("zzz", ["eval", "export"]) is None
    assert nearest("eval", []) is None


def test_one_is_told_from_several() -> None:
    assert count_of(1, "template") == "1 template" and count_of(0, "image") == "0 images"
    assert count_of(1000, "class", "classes") == "1,000 classes"
