"""CLIP's vocabulary, from the file that the open_clip package carries."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path

from kdx.core.errors import SetupError
from kdx.core.tokenizers.clip import CLEAN, END, END_OF_WORD, START, ClipTokenizer, byte_alphabet

VOCAB_SIZE = 49_408
VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 49152 - 256 - 2  # CLIP uses this many of the file's 262,144


@functools.cache
def clip_tokenizer(clean: str = CLEAN) -> ClipTokenizer:
    """The tokenizer of CLIP (49,408 ids), built without importing open_clip or torch.

    clean: open_clip's name for what is done to a text first.

    Raises SetupError when open_clip is not installed or lacks the file.
    """
    merges = _read_merges(_vocabulary_path())
    letters = list(byte_alphabet().values())
    symbols = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), START, END]
    return ClipTokenizer({symbol: i for i, symbol in enumerate(symbols)}, merges, clean)


def _vocabulary_path() -> Path:
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise SetupError("open_clip is not installed", remedy="pip install open_clip_torch")
    path = Path(package.origin).parent / VOCABULARY_FILE
    if not path.is_file():
        raise SetupError(
            "open_clip lacks its vocabulary",
            where=path,
            remedy="pip install --force-reinstall open_clip_torch",
        )
    return path


def _read_merges(path: Path) -> list[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : NUM_MERGES + 1]  # the first line is a version
    pairs = (line.split() for line in lines)
    return [(first, second) for first, second in pairs]
