"""Text → ids: CLIP's byte-pair tokenizer."""

from .base import Tokenizer
from .clip import ClipTokenizer
from .opening import open_tokenizer, tokenizer_files

__all__ = ["ClipTokenizer", "Tokenizer", "open_tokenizer", "tokenizer_files"]
