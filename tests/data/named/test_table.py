from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.core.requests import check_labels, check_templates
from kdx.data.named.open import LAYOUTS
from kdx.data.named.table import FACTS, class_folders, find_set, known_sets, prompts


def lines(name: str) -> list[str]:
    return (FACTS / name).read_text(encoding="utf-8").splitlines()


def test_imagenet_has_a_thousand_synsets_in_the_order_of_their_names() -> None:
    folders = list(class_folders(find_set("imagenet")))
    assert len(folders) == 1000
    assert folders == sorted(folders)
    # the first, the 386th of torchvision's and Keras's order, and the last
    assert (folders[0], folders[386], folders[999]) == ("n01440764", "n02504458", "n15075141")


def test_imagenets_names_and_templates_are_open_clips() -> None:
    import open_clip

    record = find_set("imagenet")
    assert list(class_folders(record).values()) == list(open_clip.IMAGENET_CLASSNAMES)
    texts = prompts(record)
    assert texts is not None
    assert [text.replace("{}", "x") for text in texts] == [
        template("x") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]


def test_synsets_are_those_of_real_photos(real_photos: Path) -> None:
    with (real_photos / "imagenet-sample/labels.csv").open(encoding="utf-8") as file:
        rows = {int(row["class_index"]): row["synset"] for row in csv.DictReader(file)}
    assert list(class_folders(find_set("imagenet"))) == [rows[label] for label in range(1000)]


def test_v2s_folders_are_the_labels() -> None:
    folders = class_folders(find_set("imagenet-v2"))
    assert list(folders) == [str(label) for label in range(1000)]
    assert list(folders.values()) == list(class_folders(find_set("imagenet")).values())


@pytest.mark.parametrize(
    ("name", "first", "absent"),
    [
        ("imagenet-r", ("n01443537", "goldfish"), "n01440764"),
        ("imagenet-a", ("n01498041", "stingray"), "n01443537"),
    ],
)
def test_masked_sets_have_200_of_the_classes(name: str, first: tuple[str, str], absent: str) -> None:
    every, masked = class_folders(find_set("imagenet")), class_folders(find_set(name))
    assert len(masked) == 200
    assert next(iter(masked.items())) == first
    assert absent not in masked
    assert masked == {folder: every[folder] for folder in every if folder in masked}


@pytest.mark.parametrize("name", known_sets())
def test_every_entry_refers_to_facts_that_are_there(name: str) -> None:
    record = known_sets()[name]
    assert set(record.layouts) <= LAYOUTS.keys()
    if record.classes is not None:
        check_labels(class_folders(record).values())
    if record.templates is not None:
        check_templates(prompts(record))


def test_an_unknown_name_shows_the_sets() -> None:
    with pytest.raises(UsageError, match="is imagenet-v2 meant") as raised:
        find_set("imagenetv2")
    assert raised.value.remedy is not None
    assert "imagenet-sketch" in raised.value.remedy
