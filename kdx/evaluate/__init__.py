"""Evaluation: zero-shot accuracy and retrieval recall of any Encoder, with 95 % intervals."""

from .dataset import Evaluation, evaluate_dataset
from .metrics import Proportion
from .retrieval import RetrievalResult, evaluate_retrieval
from .zero_shot import ZeroShotResult, class_weights, classify, evaluate_zero_shot

__all__ = [
    "Evaluation",
    "Proportion",
    "RetrievalResult",
    "ZeroShotResult",
    "class_weights",
    "classify",
    "evaluate_dataset",
    "evaluate_retrieval",
    "evaluate_zero_shot",
]
