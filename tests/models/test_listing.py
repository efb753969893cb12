"""Facts of kdx/models/listing.py."""

from pathlib import Path

import pytest

from kdx.models.architectures import count_parameters, read_architecture
from kdx.models.listing import ListedArchitecture, list_architectures

LISTED = {each.name: each for each in list_architectures()}


def test_the_table_in_the_documents_is_the_list() -> None:
    text = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    rows = [line for line in text.partition("## All by name")[2].splitlines() if line.startswith("| `")]
    assert rows == [_row(each) for each in LISTED.values()]


def _row(each: ListedArchitecture) -> str:
    image, text, total = (n / 1e6 for n in (each.image_params, each.text_params, each.total_params))
    millions = f"{image:.2f} | {text:.2f} | {total:.2f}"
    return f"| `{each.name}` | {millions} | {each.image_size} | {each.lengths} | {', '.join(each.needs)} |"


def test_a_length_is_fixed_where_a_text_tower_sees_its_padding() -> None:
    lengths = {name: LISTED[name].lengths for name in ("ViT-B-16", "ViT-B-16-SigLIP2", "roberta-ViT-B-32")}
    assert lengths == {"ViT-B-16": "≤ 77", "ViT-B-16-SigLIP2": "64", "roberta-ViT-B-32": "≤ 77"}


def _assert_counts(name: str) -> None:
    counted, listed = count_parameters(read_architecture(name)), LISTED[name]
    assert (counted.image_params, counted.text_params) == (listed.image_params, listed.text_params)
    assert counted.total_params == listed.total_params


@pytest.mark.parametrize(
    "name", ["kdx-mini", "MobileCLIP2-S2", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32"]
)
def test_a_listed_count_is_that_of_the_model(name: str) -> None:
    _assert_counts(name)


@pytest.mark.slow  # a minute or two
@pytest.mark.parametrize("name", LISTED)
def test_every_listed_count_is_that_of_the_model(name: str) -> None:
    _assert_counts(name)


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [  # open_clip's own table, docs/model_profile.csv, in millions
        ("ViT-B-16-SigLIP", 92.88, 110.27),
        ("ViT-SO400M-14-SigLIP-384", 428.23, 449.73),
        ("ViT-L-14-CLIPA", 303.96, 110.25),
        ("ViT-bigG-14-CLIPA-336", 1845.44, 672.32),
        ("EVA02-E-14-plus", 4350.56, 694.33),
        ("coca_ViT-L-14", 306.72, 123.65),
        ("coca_roberta-ViT-B-32", 87.85, 124.45),
    ],
)
def test_published_counts(name: str, image: float, text: float) -> None:
    listed = LISTED[name]
    assert (listed.image_params / 1e6, listed.text_params / 1e6) == pytest.approx((image, text), abs=0.01)
