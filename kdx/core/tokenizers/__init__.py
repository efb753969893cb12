"""Text → ids: CLIP's byte-pair tokenizer, and any fast one of Hugging Face."""

from .base import Tokenizer
from .clip import ClipTokenizer
from .hugging_face import HuggingFaceRules, HuggingFaceTokenizer
from .opening import open_tokenizer, tokenizer_files

__all__ = [
    "ClipTokenizer",
    "HuggingFaceRules",
    "HuggingFaceTokenizer",
    "Tokenizer",
    "open_tokenizer",
    "tokenizer_files",
]
