"""Facts of kdx/core/spelling.py."""

from kdx.core.spelling import nearest


def test_the_known_word_that_is_most_like_it_is_found() -> None:
    assert nearest("exprot", ["eval", "export", "exported"]) == "export"


def test_a_word_like_none_has_no_nearest() -> None:
    assert nearest("zzz", ["eval", "export"]) is None
    assert nearest("eval", []) is None
