"""Facts of kdx/data/sample.py: what the texts of labels mean."""

import pytest

from kdx.data.sample import BadSample, LabelFinder


def test_a_label_is_a_name_or_a_number() -> None:
    labels = LabelFinder(["cat", "dog", "7"])
    assert [labels.find(text) for text in ("dog", "1", "7")] == [1, 1, 2]
    assert LabelFinder(None).find("123456789") == 123456789


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cow", "its label is 'cow', neither an integer nor a known class"),
        ("4", "its label is 4, there are only 4 classes"),
        ("crane", "its label is 'crane', which names several classes: write the index"),
        ("²", "neither an integer"),
    ],
)
def test_what_is_no_label_is_told(text: str, said: str) -> None:
    with pytest.raises(BadSample, match=said):
        LabelFinder(["crane", "cat", "crane", "dog"], what="its label").find(text)


def test_a_hundred_thousand_classes_are_no_work() -> None:
    names = [f"class {number}" for number in range(100_000)]
    labels = LabelFinder(names)
    assert [labels.find(name) for name in names] == list(
        range(100_000)
    )  # ten minutes where each is searched for
