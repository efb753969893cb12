"""Facts of kdx/data/caption_tokens.py, and of the batches that the loader makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdx.core.preprocess import Preprocess
from kdx.core.tokenizers import Tokenizer
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.loader import Batch, Loader, ViewReader
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import ViewConfig
from kdx.models.clip_vocabulary import clip_tokenizer

MakeSamples = Callable[..., list[Sample]]
CAPTIONS = ("one", "two words", "three words here")


class _Large(Tokenizer):
    """A vocabulary of 100,000; a text's ids are 70,000 + the number of each of its words."""

    kind, vocab_size, pad_id = "large", 100_000, 0

    @property
    def start(self) -> tuple[int, ...]:
        return ()

    @property
    def end(self) -> tuple[int, ...]:
        return ()

    def _identity(self) -> object:
        return self.kind

    def save(self, folder: Path) -> None: ...

    def encode_and_tell(self, text: str, context_length: int) -> tuple[list[int], bool]:
        ids = [70_000 + number for number, _ in enumerate(text.split())]
        return ids[:context_length], len(ids) > context_length


@pytest.fixture
def samples(tmp_path: Path, make_samples: MakeSamples) -> ShardSet:
    write_shards(tmp_path, "train", make_samples(8, captions=[CAPTIONS] * 8))
    return open_split(tmp_path, "train")


def _first(captions: CaptionTokens) -> Batch:
    reader = ViewReader(captions.samples, Preprocess(8, (0, 0, 0), (1, 1, 1)), ViewConfig(), max_bad_share=0)
    (batch,) = Loader(reader, captions=captions, batch_size=8, seed=0).batches(0, 1)
    return batch


def test_clips_tokens_are_those_of_its_tokenizer(samples: ShardSet) -> None:
    read = CaptionTokens(samples, 16)
    assert read.dtype == np.uint16
    for caption, text in enumerate(CAPTIONS):
        assert read(5, caption).tolist() == clip_tokenizer().encode(text, 16)


def test_ids_beyond_two_bytes_stay_what_they_are(samples: ShardSet) -> None:
    read = CaptionTokens(samples, 16, _Large())
    assert read(0, 2).tolist() == [70_000, 70_001, 70_002]
    batch = _first(read)
    assert batch.tokens.max() == 70_000 + max(len(CAPTIONS[number].split()) for number in batch.captions) - 1


def test_texts_of_a_tower_that_reads_padding_fill_the_context(samples: ShardSet) -> None:
    longest = max(len(clip_tokenizer().encode(text, 16)) for text in CAPTIONS)
    assert _first(CaptionTokens(samples, 16)).tokens.shape[1] <= longest
    batch = _first(CaptionTokens(samples, 16, padding="full", pad_id=7))
    assert batch.tokens.shape == (8, 16)
    for row, caption, tokens in zip(batch.rows, batch.captions, batch.tokens, strict=True):
        own = samples.tokens(int(row), int(caption), 16).tolist()
        assert tokens.tolist() == own + [7] * (16 - len(own))


def test_a_batch_tells_how_many_captions_were_cut(samples: ShardSet) -> None:
    read = CaptionTokens(samples, 4)  # start, two words, end
    assert [read.read(0, number)[1] for number in range(3)] == [False, False, True]
    batch = _first(read)
    assert batch.cut == (batch.captions == 2).sum() > 0
    whole = CaptionTokens(samples, 2, _Large())
    assert [whole.read(0, number)[1] for number in range(3)] == [False, False, True]
