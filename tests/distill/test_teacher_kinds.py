"""Every term with every kind of teacher and either contrast, beside the formulas written anew in loops in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from kdx.distill import Embeddings, Objective, ObjectiveConfig
from kdx.distill.local_rows import LocalRows
from kdx.distill.losses import match_probabilities
from kdx.distill.objective import INITIAL_LOG_SCALE
from kdx.distill.objective_config import DISTILLING

Array = npt.NDArray[np.float64]

PAIRS, WIDTH = 6, 8
INITIAL = float(
    torch.tensor(INITIAL_LOG_SCALE).double().exp()
)  # of the learnable scales, which begin in float32
TERMS = ("task", *DISTILLING)
KINDS = {
    "softmax": (100.0, None),
    "sigmoid": (110.0, -16.0),
}  # CLIP's scale as published, SigLIP's with its bias
ENSEMBLES = {"softmax": ("softmax",), "sigmoid": ("sigmoid",), "both": ("softmax", "sigmoid")}
CASES = [
    (term, contrast, teachers)
    for term in TERMS
    for contrast in ("softmax", "sigmoid")
    for teachers in ENSEMBLES
    if (term, contrast) != ("gd", "sigmoid")
]


def _model(seed: int, scale: float, bias: float | None) -> Embeddings:
    """Pairs that are more alike than others, as a teacher's are: cosines near 0.2 beside those around 0."""
    random = torch.Generator().manual_seed(seed)
    image, noise = torch.randn(2, PAIRS, WIDTH, generator=random, dtype=torch.float64)
    text = 0.2 * image + noise
    return Embeddings(
        F.normalize(image, dim=-1),
        F.normalize(text, dim=-1),
        torch.tensor(scale, dtype=torch.float64),
        None if bias is None else torch.tensor(bias, dtype=torch.float64),
        masked_image=F.normalize(image + noise, dim=-1),
    )


def _softmax(row: Array) -> Array:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def _rows(logits: Array) -> Array:
    return np.array([_softmax(row) for row in logits])


def _divergence(target: Array, answer: Array) -> float:
    """Of rows of probabilities: the mean of Σ p ln(p / q), where 0 ln 0 is 0."""
    both = zip(target.flat, answer.flat, strict=True)
    return sum(float(p * np.log(p / q)) for p, q in both if p) / PAIRS


def _cross_entropy(logits: Array) -> float:
    return sum(-float(np.log(_softmax(logits[k])[k])) for k in range(PAIRS)) / PAIRS


def _sigmoid(value: float) -> float:
    return 1 / (1 + float(np.exp(-value)))


class _Plain:
    """One model's numbers."""

    def __init__(self, model: Embeddings, scale: float | None = None) -> None:
        self.v, self.s = model.image.numpy(), model.text.numpy()
        own = float(model.scale)
        self.scale = scale or own
        self.bias = None if model.bias is None else float(model.bias) * self.scale / own
        self.logits: Array = self.scale * self.v @ self.s.T

    def matches(self) -> Array:
        """How likely each pair belongs together."""
        found = np.zeros((PAIRS, PAIRS))
        for k in range(PAIRS):
            for j in range(PAIRS):
                if self.bias is not None:
                    found[k, j] = _sigmoid(self.logits[k, j] + self.bias)
                    continue
                texts = sum(np.exp(self.logits[k, o]) for o in range(PAIRS) if o != j)
                images = sum(np.exp(self.logits[o, j]) for o in range(PAIRS) if o != k)
                found[k, j] = (
                    sum(_sigmoid(self.logits[k, j] - np.log(other)) for other in (texts, images)) / 2
                )
        return found

    def gradients(self) -> list[Array]:
        """Of the summed contrastive losses by each embedding."""
        found = []
        for own, other in ((self.v, self.s), (self.s, self.v)):
            wrong = _rows(self.scale * own @ other.T) - np.eye(PAIRS)
            found += [self.scale * wrong @ other, self.scale * wrong.T @ own]
        return found


def _reference(
    term: str, contrast: str, student: Embeddings, teachers: Sequence[_Plain], fuse: list[Any]
) -> float:
    own = _Plain(student)
    masked = student.masked_image
    assert masked is not None and own.bias is not None
    both = [_rows(each.logits) for each in teachers], [_rows(each.logits.T) for each in teachers]
    targets = [np.mean(each, axis=0) for each in both]
    answers = _rows(own.logits), _rows(own.logits.T)
    pairs = np.array([[_sigmoid(x + own.bias) for x in row] for row in own.logits])

    def each(of_one: Callable[[_Plain], float]) -> float:
        return sum(map(of_one, teachers)) / len(teachers)

    def distance(image: Array, teacher: _Plain) -> float:
        return float(((image - teacher.v) ** 2).sum() + ((own.s - teacher.s) ** 2).sum()) / PAIRS

    def crossed(teacher: _Plain) -> tuple[Array, Array]:
        return INITIAL * own.v @ teacher.s.T, INITIAL * own.s @ teacher.v.T

    def fused(teacher: _Plain) -> float:
        layers = fuse[list(teachers).index(teacher)]
        sides = []
        for layer, mine, its in zip(layers, (own.v, own.s), (teacher.v, teacher.s), strict=True):
            weight, bias = (each.detach().numpy() for each in (layer.weight, layer.bias))
            out = np.concatenate([mine, its], axis=1) @ weight.T + bias
            sides.append(out / np.linalg.norm(out, axis=1, keepdims=True))
        logits = INITIAL * sides[0] @ sides[1].T
        return (_cross_entropy(logits) + _cross_entropy(logits.T)) / 2

    def cross_kd(teacher: _Plain) -> float:
        found = zip((teacher.logits, teacher.logits.T), crossed(teacher), strict=True)
        return sum(_divergence(_rows(theirs), _rows(mine)) for theirs, mine in found) / 2

    if term == "task" and contrast == "sigmoid":
        right = np.where(np.eye(PAIRS), pairs, 1 - pairs)
        return float(-np.log(right).sum()) / PAIRS
    if term == "task":
        return (_cross_entropy(own.logits) + _cross_entropy(own.logits.T)) / 2
    if term == "crd" and contrast == "sigmoid":
        said = np.mean([teacher.matches() for teacher in teachers], axis=0)
        return _divergence(said, pairs) + _divergence(1 - said, 1 - pairs)
    if term == "crd":
        return sum(_divergence(*each) for each in zip(targets, answers, strict=True))
    if term == "affinity":
        return -sum(float((p * np.log(q)).sum()) for p, q in zip(targets, answers, strict=True)) / PAIRS / 2
    return {
        "fd": lambda: each(lambda teacher: distance(own.v, teacher)),
        "mfd": lambda: each(lambda teacher: distance(masked.numpy(), teacher)),
        "gd": lambda: each(
            lambda teacher: sum(
                float(((mine - its) ** 2).sum()) / PAIRS
                for mine, its in zip(own.gradients(), teacher.gradients(), strict=True)
            )
        ),
        "icl": lambda: each(lambda teacher: sum(_cross_entropy(logits) for logits in crossed(teacher)) / 2),
        "afd": lambda: each(fused),
        "cross_kd": lambda: each(cross_kd),
    }[term]()


def _compare(term: str, contrast: str, kinds: Sequence[str], **settings: Any) -> None:
    torch.manual_seed(0)
    config = ObjectiveConfig.model_validate({"task": 1.0, term: 1.0, "contrast": contrast, **settings})
    student = _model(0, 14.0, -6.0)
    teachers = [_model(seed, *KINDS[kind]) for seed, kind in enumerate(kinds, 1)]
    objective = Objective(config, WIDTH, [WIDTH] * len(teachers)).double()
    bridges: Any = objective.bridges
    fuse = [(bridge.fuse_image, bridge.fuse_text) for bridge in bridges] if term == "afd" else []
    plain = [_Plain(each, config.scale_of(number)) for number, each in enumerate(teachers)]
    _, terms = objective(student, teachers)
    assert set(terms) == {"task", term} and terms[term].dtype == torch.float64
    expected = _reference(term, contrast, student, plain, fuse)
    assert terms[term].item() == pytest.approx(expected, rel=1e-9)
    assert expected > 0


@pytest.mark.parametrize(("term", "contrast", "teachers"), CASES)
def test_each_term_is_defined_for_each_kind_of_teacher(term: str, contrast: str, teachers: str) -> None:
    _compare(term, contrast, ENSEMBLES[teachers])


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
@pytest.mark.parametrize("term", ["crd", "affinity", "cross_kd"])
def test_a_temperature_divides_scale_and_bias(term: str, contrast: str) -> None:
    _compare(term, contrast, ENSEMBLES["both"], teacher_scale=(70.0, 60.0))
    _compare(term, contrast, ENSEMBLES["sigmoid"], teacher_scale=50.0)


def test_a_softmax_teacher_expects_one_match_a_row_and_a_sharp_one_the_pairs_themselves() -> None:
    model = _model(1, 20.0, None)
    rows = LocalRows(model.image, model.text, model.scale)
    found = match_probabilities(rows)
    assert found.sum().item() == pytest.approx(PAIRS)
    mirrored = match_probabilities(LocalRows(model.text, model.image, model.scale))
    assert torch.allclose(mirrored, found.T)  # neither modality comes first
    sharp = match_probabilities(LocalRows(model.image, model.image, 1e4 * model.scale))
    assert torch.allclose(sharp, torch.eye(PAIRS, dtype=torch.float64))  # what the task asks for


def test_a_sigmoid_teachers_bias_is_nothing_to_a_softmax_student() -> None:
    student = _model(0, 14.0, None)
    terms = {"crd": 1.0, "gd": 1.0, "cross_kd": 1.0, "affinity": 1.0}
    objective = Objective(ObjectiveConfig.model_validate({"task": 1.0, **terms}), WIDTH, WIDTH).double()
    with_bias, without = (objective(student, _model(1, 110.0, bias))[1] for bias in (-16.0, None))
    assert {name: term.item() for name, term in with_bias.items()} == {
        name: term.item() for name, term in without.items()
    }
