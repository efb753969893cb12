"""Tokenizers of Hugging Face without transformers, against open_clip's HFTokenizer, which runs them through it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import DataError
from kdx.models.foreign.hugging_face_tokenizer import (
    Wishes,
    read_hugging_face_tokenizer,
    write_hugging_face_tokenizer,
)

from ...core.tokenizers.corpus import Corpus
from .small_tokenizers import KINDS, nllb

LENGTH = 24


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """A part of the corpus that CLIP's tokenizer is compared on, and texts about as long as the context."""
    corpus = Corpus(seed=5)
    some = [*corpus.lines()[::17], *corpus.mixtures(100), *("dog " * n for n in range(18, 28))]
    return [*some, "<s> a </s> <pad> <eos> [SEP] [CLS] <mask> <new> <unk> x", "a<pad>b <0x41> eng_Latn"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("tokenizers")

    def made(kind: str) -> Path:
        if not (folder / kind).exists():
            KINDS[kind](folder / kind)
        return folder / kind

    return made


def assert_equals_open_clips(folder: Path, lines: list[str], wishes: Wishes) -> None:
    from open_clip.tokenizer import HFTokenizer

    mode = wishes.mode
    theirs = HFTokenizer(
        str(folder),
        context_length=LENGTH,
        clean=wishes.clean,
        strip_sep_token=wishes.strip_sep_token,
        tokenizer_mode=mode,
    )
    expected = theirs(lines).tolist()
    ours = read_hugging_face_tokenizer(folder, wishes)
    wrong = []
    for line, ids in zip(lines, expected, strict=True):
        encoded = ours.encode(line, LENGTH)
        padded = encoded + [ours.pad_id] * (LENGTH - len(encoded))
        if padded != ids:
            wrong.append((ascii(line[:60]), padded, ids))
    assert wrong[:3] == []
    assert len({len(ours.encode(line, LENGTH)) for line in lines}) > (
        0 if mode else 10
    )  # the lines are not all cut


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_open_clips_on_a_unicode_corpus(
    kind: str, folder_of: Callable[[str], Path], lines: list[str]
) -> None:
    clean = {"t5": "canonicalize", "gemma": "canonicalize"}.get(kind, "whitespace")
    assert_equals_open_clips(folder_of(kind), lines, Wishes(clean, strip_sep_token=kind == "bert"))


@pytest.mark.parametrize(
    ("kind", "wishes"),
    [
        ("gemma", Wishes("whitespace")),
        ("t5", Wishes("lower")),
        ("gemma", Wishes(mode="clips")),
    ],
)
def test_ids_equal_open_clips_with_other_settings(
    kind: str, wishes: Wishes, folder_of: Callable[[str], Path], lines: list[str], tmp_path: Path
) -> None:
    folder = folder_of(kind)
    if wishes.mode:
        folder = _changed(folder, tmp_path, "tokenizer_config.json", cls_token="<mask>")
    assert_equals_open_clips(folder, lines[::3], wishes)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}),
        ("roberta", {"add_prefix_space": True}),
        ("roberta", {"truncation_side": "left"}),
        ("nllb", {"src_lang": "fra_Latn"}),
        ("roberta", {"additional_special_tokens": ["dog", "<more>"]}),
        (
            "roberta",
            {"added_tokens_decoder": {"4": {"content": "<mask>", "lstrip": True, "special": True}}},
        ),
    ],
)
def test_ids_follow_the_settings_of_the_class_as_transformers_does(
    kind: str, settings: dict[str, Any], folder_of: Callable[[str], Path], lines: list[str], tmp_path: Path
) -> None:
    folder = _changed(folder_of(kind), tmp_path, "tokenizer_config.json", **settings)
    assert_equals_open_clips(folder, [*lines[::5], "a  <mask>b dogs <more>"], Wishes())


@pytest.mark.parametrize("kind", [*KINDS, "clips"])
def test_transformers_gets_the_same_ids_from_what_is_written_for_it(
    kind: str, folder_of: Callable[[str], Path], lines: list[str], tmp_path: Path
) -> None:
    wishes = Wishes(strip_sep_token=kind == "bert", mode="clips" if kind == "clips" else None)
    folder = folder_of("gemma" if kind == "clips" else kind)
    if wishes.mode:
        folder = _changed(folder, tmp_path, "tokenizer_config.json", cls_token="<mask>")
    ours = read_hugging_face_tokenizer(folder, wishes)
    (tmp_path / "written").mkdir()
    write_hugging_face_tokenizer(ours, tmp_path / "written")
    assert_equals_open_clips(tmp_path / "written", lines[::3], wishes)
    assert read_hugging_face_tokenizer(tmp_path / "written", wishes).digest == ours.digest


def test_nllbs_older_way_puts_the_language_after_the_text(lines: list[str], tmp_path: Path) -> None:
    nllb(tmp_path, legacy_behaviour=True)
    assert_equals_open_clips(tmp_path, lines[::5], Wishes())
    assert read_hugging_face_tokenizer(tmp_path, Wishes()).end == (2, 4)


def test_ids_beyond_16_bits_are_given_whole(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    content = json.loads((folder_of("roberta") / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 250_000, "content": "<far>"})
    content["model"]["vocab"]["<far>"] = 250_000
    _copy(folder_of("roberta"), tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = read_hugging_face_tokenizer(tmp_path, Wishes())
    assert tokenizer.vocab_size == 250_001
    assert tokenizer.encode("<far>", LENGTH) == [0, 250_000, 2]


def test_neither_transformers_nor_torch_is_imported(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    read_hugging_face_tokenizer(folder_of("t5"), Wishes()).save(tmp_path)
    code = (
        "import sys; from pathlib import Path; from kdx.core.tokenizers import open_tokenizer;"
        "open_tokenizer(Path(sys.argv[1])).encode('a dog', 64);"
        "print(*{'torch', 'open_clip', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"padding_side": "left"}, "left"),
        ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "code of its own"),
        ({"added_tokens_decoder": {"x": 3}}, "tokens that are none"),
        ({"added_tokens_decoder": [3]}, "tokens that are none"),
    ],
)
def test_settings_that_kdx_cannot_follow_are_refused(
    change: dict[str, Any], said: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = _changed(folder_of("t5"), tmp_path, "tokenizer_config.json", **change)
    with pytest.raises(DataError, match=said) as caught:
        read_hugging_face_tokenizer(folder, Wishes())
    assert str(folder) in str(caught.value.where) and caught.value.remedy


def test_without_a_token_to_pad_with_it_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    _copy(folder_of("roberta"), tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"<pad>"', '"<filler>"'))
    with pytest.raises(DataError, match="pad_token"):
        read_hugging_face_tokenizer(tmp_path, Wishes())
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<filler>"}')
    assert read_hugging_face_tokenizer(tmp_path, Wishes()).pad_id == 1


@pytest.mark.parametrize("wishes", [Wishes(clean="shiny"), Wishes(mode="other"), Wishes(mode="clips")])
def test_wishes_that_kdx_cannot_fulfil_are_refused(wishes: Wishes, folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(DataError) as caught:
        read_hugging_face_tokenizer(folder_of("t5"), wishes)
    assert caught.value.where == str(folder_of("t5") / "tokenizer.json") and caught.value.remedy


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model", "vocab.txt"])
def test_a_tokenizer_that_runs_in_python_alone_is_refused_with_how_to_convert_it(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"\n\x0e")
    with pytest.raises(DataError, match=name) as caught:
        read_hugging_face_tokenizer(tmp_path, Wishes())
    assert "save_pretrained" in str(caught.value.remedy)


def test_siglips_own_class_has_no_other_form_and_the_way_out_is_open_clips_file(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    with pytest.raises(DataError, match=r"spiece\.model") as caught:
        read_hugging_face_tokenizer(tmp_path, Wishes())
    assert "timm/ViT-B-16-SigLIP" in str(caught.value.remedy)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        read_hugging_face_tokenizer(tmp_path, Wishes())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": {"type": "Unigram", "vocab": []}}', '{"normalizer": 3}']
)
def test_a_damaged_tokenizer_is_a_data_error_that_names_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError) as caught:
        read_hugging_face_tokenizer(tmp_path, Wishes())
    assert caught.value.where == str(tmp_path / "tokenizer.json")


def _copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def _changed(source: Path, target: Path, name: str, **fields: Any) -> Path:
    _copy(source, target)
    content = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(content | fields))
    return target
