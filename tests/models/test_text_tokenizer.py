"""tokenizer_of: CLIP's tokenizer or a named one, and those of other models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.core.tokenizers import ClipTokenizer, HuggingFaceTokenizer, open_tokenizer
from kdx.models.architecture import Architecture, read_architecture
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.models.foreign import hub
from kdx.models.open_clip_architectures import open_clip_names
from kdx.models.text_tokenizer import tokenizer_files_of, tokenizer_of

from .foreign.small_tokenizers import bert, t5


def architecture(**text: Any) -> Architecture:
    clip = read_architecture("ViT-B-32")
    return clip.changed(text_cfg=clip.text_cfg.model_validate(clip.text_cfg.to_dict() | text))


def test_a_plain_clip_reads_texts_as_clip_does() -> None:
    assert tokenizer_of(architecture()) is clip_tokenizer()


def test_a_clip_with_other_cleaning_keeps_it_in_its_folder(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(architecture(tokenizer_kwargs={"clean": "canonicalize"}))
    assert tokenizer.encode("A_dog!", 9) == clip_tokenizer().encode("a dog", 9)
    tokenizer.save(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert isinstance(opened, ClipTokenizer)
    assert opened.digest == tokenizer.digest != clip_tokenizer().digest
    assert opened.encode("A_dog!", 9) == tokenizer.encode("A_dog!", 9)


def named(**text: Any) -> Architecture:
    return architecture(**{"hf_tokenizer_name": "someone/tokenizer", "vocab_size": 48, **text})


def test_a_named_tokenizer_is_read_from_a_folder_with_the_architectures_settings(tmp_path: Path) -> None:
    t5(tmp_path)
    tokenizer = tokenizer_of(named(tokenizer_kwargs={"clean": "canonicalize"}), tmp_path)
    assert isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.pad_id == 1
    assert tokenizer.encode("A_dog!", 9) == tokenizer.encode("a dog", 9)


def test_without_a_folder_the_hub_is_asked_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch_tokenizer", lambda name: asked.append(name) or tmp_path)
    size = len(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    tokenizer = tokenizer_of(named(vocab_size=size + 9, tokenizer_kwargs={"strip_sep_token": True}))
    assert asked == ["someone/tokenizer"]
    assert tokenizer.encode("a dog", 9)[-1] == 0  # [SEP]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"vocab_size": 47}, "48 ids, the text tower 47"),
        ({"vocab_size": 256_000}, "48 ids, the text tower 256000"),
        ({"pool_type": "eos", "eos_id": 7}, "looks for 7"),
    ],
)
def test_the_tokenizer_of_another_model_is_refused(text: dict[str, Any], said: str, tmp_path: Path) -> None:
    t5(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        tokenizer_of(named(**text), tmp_path)
    assert caught.value.where == str(tmp_path) and "someone/tokenizer" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vocab_size": 40}, "48 ids, the text tower 40"),
        ({"vocab_size": 250_002}, "48 ids, the text tower 250002"),
        ({"vocab_size": 50, "pad_token_id": 0}, "pads a text with 1, the text tower looks for 0"),
        ({"vocab_size": 50, "pad_token_id": 1}, None),
    ],
)
def test_a_hugging_face_towers_own_configuration_says_whose_tokenizer_it_is(
    config: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    t5(tmp_path)
    tower = named(hf_model_name="someones", hf_config={"model_type": "roberta", **config})
    if said is None:
        assert tokenizer_of(tower, tmp_path).pad_id == 1
        return
    with pytest.raises(DataError, match=said):
        tokenizer_of(tower, tmp_path)


@pytest.mark.parametrize(
    "made",
    [architecture(), architecture(tokenizer_kwargs={"clean": "canonicalize"}), named()],
    ids=["CLIP's", "CLIP's with other cleaning", "another"],
)
def test_the_files_that_a_checkpoint_will_have_are_known_before_they_are_here(
    made: Architecture, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    t5(tmp_path / "theirs")
    tokenizer_of(made, tmp_path / "theirs" if made.text_cfg.tokenizer_name else None).save(tmp_path / "ours")
    assert sorted(file.name for file in (tmp_path / "ours").iterdir()) == sorted(tokenizer_files_of(made))


def test_every_listed_model_that_reads_texts_as_clip_does_takes_clips_tokenizer() -> None:
    with_clips = [
        each for each in map(read_architecture, open_clip_names()) if not each.text_cfg.tokenizer_name
    ]
    assert len(with_clips) > 90
    for each in with_clips:
        assert tokenizer_of(each).kind == "clip", each.name


def test_a_folder_beside_a_model_that_reads_as_clip_does_is_refused(tmp_path: Path) -> None:
    t5(tmp_path)
    with pytest.raises(UsageError, match="CLIP's own tokenizer"):
        tokenizer_of(architecture(), tmp_path)


def test_the_end_of_text_that_a_text_tower_looks_for_is_accepted(tmp_path: Path) -> None:
    t5(tmp_path)
    tokenizer = tokenizer_of(named(pool_type="eos", eos_id=1), tmp_path)
    assert isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.end == (1,)


def test_sentinels_beyond_the_text_towers_vocabulary_do_no_harm(tmp_path: Path) -> None:
    t5(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] = ["<extra_id_0>", "<extra_id_1>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer_of(named(), tmp_path).vocab_size == 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"tokenizer_kwargs": {"clean": "shiny"}}, "shiny"),
        ({"tokenizer_kwargs": {"clean": 3}}, "clean = 3"),
        ({"tokenizer_kwargs": {"reduction_mask": "random"}}, "reduction_mask"),
        ({"tokenizer_kwargs": {"strip_sep_token": True}}, "does not do"),
        ({"tokenizer_mode": "clips"}, "does not do"),
    ],
)
def test_what_kdx_does_not_do_with_texts_is_refused(text: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        tokenizer_of(architecture(**text))
