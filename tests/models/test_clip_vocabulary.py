"""clip_tokenizer: CLIP's vocabulary from open_clip's file, without open_clip."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from kdx.core.errors import SetupError
from kdx.models.clip_vocabulary import clip_tokenizer


@pytest.fixture
def fresh() -> None:
    clip_tokenizer.cache_clear()


def test_vocabulary_and_merges_equal_open_clips() -> None:

    from open_clip import SimpleTokenizer

    from kdx.core.tokenizers import ClipTokenizer

    reference = SimpleTokenizer()
    merges = [(first, second) for first, second in reference.bpe_ranks]
    assert clip_tokenizer().vocab_size == reference.vocab_size
    assert clip_tokenizer().digest == ClipTokenizer(reference.encoder, merges).digest


def test_it_is_built_once() -> None:
    assert clip_tokenizer() is clip_tokenizer()


def test_neither_torch_nor_open_clip_is_imported() -> None:
    code = (
        "import sys; from kdx.models.clip_vocabulary import clip_tokenizer; clip_tokenizer();"
        "print(*{'torch', 'open_clip', 'torchvision', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_open_clip_it_is_a_setup_error(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="open_clip"):
        clip_tokenizer()


def test_without_its_vocabulary_it_is_a_setup_error(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = ModuleSpec("open_clip", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(SetupError, match="open_clip"):
        clip_tokenizer()
