"""Evaluation: zero-shot accuracy and retrieval recall of any Embedder, with 95 % intervals."""

from .dataset import Evaluation, evaluate_dataset, evaluate_set
from .metrics import Proportion
from .retrieval import RetrievalResult, evaluate_retrieval
from .zero_shot import ZeroShotResult, class_weights, evaluate_zero_shot

__all__ = [
    "Evaluation",
    "Proportion",
    "RetrievalResult",
    "ZeroShotResult",
    "class_weights",
    "evaluate_dataset",
    "evaluate_retrieval",
    "evaluate_set",
    "evaluate_zero_shot",
]
