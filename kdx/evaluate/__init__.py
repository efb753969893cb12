"""Evaluation: zero-shot accuracy and retrieval recall of any Embedder, with 95 % intervals."""

from .dataset import evaluate_dataset, evaluate_set
from .evaluation import Evaluation, WidthScores
from .metrics import Estimate, Proportion
from .retrieval import Direction, RetrievalResult, evaluate_retrieval
from .zero_shot import ZeroShotResult, class_weights, evaluate_zero_shot

__all__ = [
    "Direction",
    "Estimate",
    "Evaluation",
    "Proportion",
    "RetrievalResult",
    "WidthScores",
    "ZeroShotResult",
    "class_weights",
    "evaluate_dataset",
    "evaluate_retrieval",
    "evaluate_set",
    "evaluate_zero_shot",
]
