"""Facts of distill/local_rows.py and of the gathering in ranks.py: a spread batch has the gradients of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdx.core.config import parse
from kdx.distill import Embeddings, Objective, ObjectiveConfig, read_recipe
from kdx.distill.local_rows import LocalRows
from kdx.distill.ranks import Ranks
from kdx.distill.recipe import recipe_names

from .rank_processes import start_ranks

BATCH, STUDENT_DIM, TEACHER_DIM = 16, 6, 5
METHODS = ("task", "crd", "fd", "mfd", "gd", "icl", "afd", "cross_kd", "affinity")
SUMS: dict[str, dict[str, Any]] = {
    "sigmoid": {"crd": 1.0, "contrast": "sigmoid"},
    "all": {"task": 1.0, "crd": 0.5, "fd": 3.0, "mfd": 2.0, "gd": 0.1, "icl": 1.0, "afd": 1.0, "cross_kd": 1.0},
    "clip-kd": {"crd": 1.0, "fd": 3.0, "gd": 9.0, "icl": 1.0, "afd": 1.0, "cross_kd": 1.0, "compat": "clip-kd"},
    "widths": {"crd": 0.5, "fd": 3.0, "gd": 0.1, "icl": 1.0, "dims": (2, 5, STUDENT_DIM)},
}  # fmt: skip


def _objectives() -> dict[str, ObjectiveConfig]:
    """Every method alone, sums, and those of all shipped recipes."""
    alone = {name: parse(ObjectiveConfig, {"task": 0.0, name: 1.0}, name) for name in METHODS}
    sums = {name: ObjectiveConfig(**table) for name, table in SUMS.items()}
    shipped = {
        each.model_dump_json(): each.model_copy(update={"dims": each.dims and (2, STUDENT_DIM)})
        for each in (read_recipe(name).objective for name in recipe_names())
    }
    return alone | sums | {f"recipe {number}": each for number, each in enumerate(shipped.values())}


class _Student(nn.Module):
    """Two small towers with a scale and a bias, and the objective with its own parameters."""

    def __init__(self, config: ObjectiveConfig, ranks: Ranks) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, STUDENT_DIM))
        self.text = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, STUDENT_DIM))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))
        self.objective = Objective(config, STUDENT_DIM, (TEACHER_DIM, TEACHER_DIM), ranks=ranks)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        image, text, masked = (
            self.image(batch["pixels"]),
            self.text(batch["words"]),
            self.image(batch["pixels"] / 2),
        )
        student = Embeddings(image, text, self.log_scale.exp(), self.bias, masked_image=masked)
        its = batch["teacher_image"], batch["teacher_text"], torch.tensor(9.0)
        teachers = [Embeddings(*its, torch.tensor(-2.0)), Embeddings(*its)]  # one of either kind
        return self.objective(student, teachers)[0]


def _trained(config: ObjectiveConfig, ranks: Ranks, steps: int) -> dict[str, Tensor]:
    """After so many steps: the loss, and every gradient as the optimiser gets it."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(1)
    sizes = {"pixels": 4, "words": 3, "teacher_image": TEACHER_DIM, "teacher_text": TEACHER_DIM}
    batch = {key: torch.randn(BATCH, size, generator=generator) for key, size in sizes.items()}
    for key in ("teacher_image", "teacher_text"):
        batch[key] = nn.functional.normalize(batch[key], dim=-1)
    own = {key: rows.chunk(ranks.size)[ranks.rank] for key, rows in batch.items()}
    torch.manual_seed(ranks.rank)  # the ranks start with other weights: those of the first count
    student = _Student(config, ranks)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    shared = ranks.share(student)
    loss, gradients = torch.zeros(()), dict[str, Tensor]()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = shared(own)
        loss.backward()
        gradients = {
            key: each.grad.clone() for key, each in student.named_parameters() if each.grad is not None
        }
        optimizer.step()
    return {"loss": ranks.mean(loss.detach()), **gradients}


class _WithoutGradient(Ranks):
    """As with open_clip's local loss alone: the columns are constants."""

    def gather(self, rows: Tensor) -> Tensor:
        return super().gather(rows.detach())


class _WithoutSum(Ranks):
    """As the code that CLIP-KD released: the own slice alone carries the own loss's gradient."""

    def gather(self, rows: Tensor) -> Tensor:
        everyone = super().gather(rows.detach())
        everyone[self.rank * len(rows) : (self.rank + 1) * len(rows)] = rows
        return everyone


class _WithoutFactor(Ranks):
    """What is gathered has the mean of the gradients, as the weights have later: one division too many."""

    def gather(self, rows: Tensor) -> Tensor:
        everyone = super().gather(rows)
        return everyone.detach() + (everyone - everyone.detach()) / self.size


GATHERS: dict[str, type[Ranks]] = {
    "gathered without gradient": _WithoutGradient,
    "gathered without the sum": _WithoutSum,
    "gathered without the factor": _WithoutFactor,
}
SHIFTED = "rows shifted by one"


def _faulty(fault: str, ranks: Ranks) -> dict[str, Tensor]:
    if fault in GATHERS:
        return _trained(ObjectiveConfig(**SUMS["all"]), GATHERS[fault](ranks.rank, ranks.size), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            LocalRows, "first", property(lambda rows: max(0, rows.ranks.rank * len(rows.image) - 1))
        )
        return _trained(ObjectiveConfig(), ranks, 1)


def _work(folder: Path) -> None:
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    found: dict[str, Any] = {name: _trained(config, ranks, 1) for name, config in _objectives().items()}
    found["three steps"] = _trained(ObjectiveConfig(**SUMS["all"]), ranks, 3)
    found |= {fault: _faulty(fault, ranks) for fault in (*GATHERS, SHIFTED)}
    if ranks.rank == ranks.size - 1:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What several processes computed, as the last of them has it."""
    folder = tmp_path_factory.mktemp("ranks")
    codes, _, err = start_ranks(request.param, folder, _work, folder)
    assert not any(codes), err
    return torch.load(folder / "found.pt")


@pytest.fixture(autouse=True)
def default_dtype() -> Any:
    yield
    torch.set_default_dtype(torch.float32)


def _difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest, of gradients that are not zero up to rounding."""
    assert one.keys() == other.keys()
    return max(
        float((one[key] - other[key]).abs().max() / other[key].abs().max().clamp(min=1e-6)) for key in one
    )


@pytest.mark.parametrize("name", _objectives())
def test_loss_and_gradients_are_those_of_one_process(together: dict[str, Any], name: str) -> None:
    assert _difference(together[name], _trained(_objectives()[name], Ranks(), 1)) <= 1e-12


def test_three_steps_are_those_of_one_process(together: dict[str, Any]) -> None:
    alone = _trained(ObjectiveConfig(**SUMS["all"]), Ranks(), 3)
    assert _difference(together["three steps"], alone) <= 1e-12


@pytest.mark.parametrize("fault", [*GATHERS, SHIFTED])
def test_the_comparison_notices_what_is_wrong(together: dict[str, Any], fault: str) -> None:
    config = ObjectiveConfig() if fault == SHIFTED else ObjectiveConfig(**SUMS["all"])
    assert _difference(together[fault], _trained(config, Ranks(), 1)) > 0.1


def test_a_term_gathers_only_what_it_needs() -> None:
    asked: list[int] = []

    class Counting(Ranks):
        def gather(self, rows: Tensor) -> Tensor:
            asked.append(rows.requires_grad)
            return rows.repeat(self.size, *(1 for _ in rows.shape[1:]))

    ranks = Counting(0, 2)
    needed = {"fd": [], "mfd": [], "icl": [False, False], "cross_kd": [False, False], "afd": [True, True],
              "task": [True, True], "crd": [True, True, False, False]}  # fmt: skip
    for name, expected in needed.items():
        asked.clear()
        config = parse(ObjectiveConfig, {"task": 0.0, name: 1.0}, "test")
        _trained_once(config, ranks)
        assert sorted(asked, reverse=True) == expected, name


def _trained_once(config: ObjectiveConfig, ranks: Ranks) -> None:
    random = torch.randn(4, 4, STUDENT_DIM, generator=torch.Generator().manual_seed(0))
    image, text, their_image, their_text = nn.functional.normalize(random, dim=-1)
    student = Embeddings(
        image.requires_grad_(), text.requires_grad_(), torch.tensor(2.0), masked_image=image * 2
    )
    objective = Objective(config, STUDENT_DIM, STUDENT_DIM, ranks=ranks)
    objective(student, Embeddings(their_image, their_text, torch.tensor(9.0)))
