"""Facts of distill/ranks.py: what several processes compute together is what one computes alone."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from kdx.cli import main
from kdx.core.errors import SetupError, UsageError
from kdx.core.log import read_metrics
from kdx.data.shards import write_shards
from kdx.data.views import philox
from kdx.distill import Embeddings, Objective, ObjectiveConfig
from kdx.distill.ranks import Ranks, join_ranks
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import open_checkpoint, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

RANKS, BATCH, STUDENT_DIM, TEACHER_DIM = 3, 9, 6, 5
WEIGHTS: dict[str, dict[str, Any]] = {
    **{
        name: {name: 1.0, "task": 0.0}
        for name in ("crd", "fd", "mfd", "gd", "icl", "afd", "cross_kd", "affinity")
    },
    "task": {"task": 1.0},
    "sigmoid": {"task": 1.0, "crd": 1.0, "contrast": "sigmoid"},
    "all": {"task": 1.0, "crd": 0.5, "fd": 3.0, "mfd": 2.0, "gd": 0.1, "icl": 1.0, "afd": 1.0, "cross_kd": 1.0},
    "clip-kd": {"crd": 1.0, "fd": 3.0, "gd": 9.0, "icl": 1.0, "afd": 1.0, "cross_kd": 1.0, "compat": "clip-kd"},
}  # fmt: skip


class _Student(nn.Module):
    """Two small towers with a scale and a bias, and the objective with its own parameters."""

    def __init__(self, name: str, ranks: Ranks) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, STUDENT_DIM))
        self.text = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, STUDENT_DIM))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))
        self.objective = Objective(
            ObjectiveConfig(**WEIGHTS[name]), STUDENT_DIM, TEACHER_DIM, gather=ranks.gather
        )

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        student = Embeddings(
            self.image(batch["pixels"]),
            self.text(batch["words"]),
            self.log_scale.exp(),
            self.bias,
            masked_image=self.image(batch["pixels"] * 0.5),
        )
        teacher = Embeddings(
            batch["teacher_image"], batch["teacher_text"], torch.tensor(9.0), torch.tensor(-2.0)
        )
        return self.objective(student, teacher)[0]


def _gradients(name: str, ranks: Ranks) -> dict[str, Tensor]:
    """The loss and every gradient after the ranks' average, in float64."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(1)
    sizes = {"pixels": 4, "words": 3, "teacher_image": TEACHER_DIM, "teacher_text": TEACHER_DIM}
    batch = {key: torch.randn(BATCH, size, generator=generator) for key, size in sizes.items()}
    for key in ("teacher_image", "teacher_text"):
        batch[key] = nn.functional.normalize(batch[key], dim=-1)
    own = {key: rows[ranks.rank :: ranks.size] for key, rows in batch.items()}
    student = _Student(name, ranks)
    loss = student.loss(own)
    loss.backward()
    ranks.average_gradients(student.parameters())
    gradients = {key: each.grad for key, each in student.named_parameters() if each.grad is not None}
    return {"loss": loss.detach(), **gradients}


class _WithoutFactor(Ranks):
    """A planted fault: gathered rows carry the own rows' gradient once, as in the code that CLIP-KD released."""

    def gather(self, rows: Tensor) -> Tensor:
        everyone = super().gather(rows.detach())
        everyone[self.rank * len(rows) : (self.rank + 1) * len(rows)] = rows
        return everyone


def _work(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    ranks = Ranks(rank, size)
    found = {name: _gradients(name, ranks) for name in WEIGHTS}
    found["faulty"] = _gradients("all", _WithoutFactor(rank, size))
    merged = ranks.merge({rank: "bad"})
    torch.manual_seed(rank)
    layer = nn.Linear(2, 2)
    ranks.start_equal(layer)
    with ranks.first_ahead():
        if not ranks.is_first:
            assert (folder / "made by the first").exists()
        else:
            (folder / "made by the first").touch()
    if rank == size - 1:
        torch.save({"found": found, "merged": merged, "weight": layer.weight.detach()}, folder / "result.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What several processes computed, as the last of them has it."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(_work, (RANKS, folder), nprocs=RANKS)
    return torch.load(folder / "result.pt")


@pytest.fixture(autouse=True)
def default_dtype() -> Any:
    yield
    torch.set_default_dtype(torch.float32)


def _difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(
        float((one[key] - other[key]).abs().max() / other[key].abs().max().clamp(min=1e-9)) for key in one
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_loss_and_gradients_are_those_of_one_process(together: dict[str, Any], name: str) -> None:
    assert _difference(together["found"][name], _gradients(name, Ranks())) < 1e-10


def test_the_comparison_notices_a_gather_without_the_factor(together: dict[str, Any]) -> None:
    alone, faulty = _gradients("all", Ranks()), together["found"]["faulty"]
    assert torch.allclose(faulty["image.0.weight"] * RANKS, alone["image.0.weight"])
    assert _difference(faulty, alone) > 0.4


def test_a_rank_has_what_all_give(together: dict[str, Any]) -> None:
    assert together["merged"] == dict.fromkeys(range(RANKS), "bad")


def test_ranks_start_with_the_weights_of_the_first(together: dict[str, Any]) -> None:
    torch.manual_seed(0)
    assert torch.equal(together["weight"], nn.Linear(2, 2, dtype=torch.float64).weight)


def test_a_batch_that_does_not_split_evenly_is_refused() -> None:
    assert Ranks(1, 4).local_batch_size(12) == 3 and Ranks().local_batch_size(5) == 5
    with pytest.raises(UsageError) as single:
        Ranks(0, 4).local_batch_size(4)
    assert "batch_size=8" in str(single.value.remedy)
    with pytest.raises(UsageError) as caught:
        Ranks(1, 4).local_batch_size(10)
    assert "batch_size=8" in str(caught.value.remedy)


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SetupError) as caught, join_ranks():
        pass
    assert "--nproc-per-node 2" in str(caught.value.remedy)
    assert not chosen and not dist.is_initialized()


@pytest.fixture
def inputs(tmp_path: Path, make_samples: Any) -> Path:
    """A folder with a teacher and two sets: whole, and with one image that does not decode."""
    samples = make_samples(20)
    write_shards(tmp_path / "data", "train", samples)
    row = int(philox(0, 0).permutation(20)[1])  # the second of the first epoch: the second process reads it
    samples[row] = replace(samples[row], image=b"\xff\xd8\xff no image")
    write_shards(tmp_path / "broken", "train", samples)
    architecture = read_architecture("kdx-mini-teacher")
    save_checkpoint(tmp_path / "teacher", build_model(architecture, seed=1), architecture, clip_tokenizer())
    return tmp_path


def test_torchrun_makes_the_student_of_one_process(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    with pytest.raises(SystemExit) as stopped:
        main(_arguments("alone"))
    assert stopped.value.code == 0
    shared = _torchrun(2, inputs, _arguments("shared"))
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout == "shared\n" and "reused" not in shared.stderr
    (one,), (other,) = (read_metrics(inputs / run / "metrics.jsonl") for run in ("alone", "shared"))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    weights, others = (open_checkpoint(inputs / run).model.state_dict() for run in ("alone", "shared"))
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], atol=1e-6), name


def test_an_image_that_one_process_cannot_read_stands_in_the_run(inputs: Path) -> None:
    done = _torchrun(
        2,
        inputs,
        [*_arguments("run", data="broken"), "--set=steps=1", "--set=optimizer.warmup_steps=0", "--json"],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bad_images"] == 1
    assert len((inputs / "run/skipped.jsonl").read_text().splitlines()) == 1


def test_too_many_bad_images_stop_all_and_are_said_once(inputs: Path) -> None:
    arguments = _arguments("run", data="broken", recipe="demo-baseline")
    done = _torchrun(
        2, inputs, [*arguments, "--set=max_bad_share=0", "--set=steps=1", "--set=optimizer.warmup_steps=0"]
    )
    assert done.returncode != 0 and done.stderr.count("1 of 20 images do not decode") == 1, done.stderr
    assert "bug" not in done.stderr and [path.name for path in inputs.glob("*run*")] == ["run.stopped"]


@pytest.mark.parametrize("option", ["--teacher", "--data"])  # the first process finds out, or every one
def test_what_is_missing_is_said_once(inputs: Path, option: str) -> None:
    done = _torchrun(2, inputs, [*_arguments("run"), option, "nowhere"])
    assert done.returncode != 0 and done.stderr.count("nowhere: ") == 1, done.stderr
    assert "bug" not in done.stderr and not list(inputs.glob("*run*"))


def _arguments(out: str, data: str = "data", recipe: str = "demo-clip-kd") -> list[str]:
    # a large eps makes AdamW's steps proportional to the gradient, so that the order of summing stays without effect
    settings = ("student=kdx-mini-vit", "steps=4", "batch_size=16", "optimizer.warmup_steps=1",
                "optimizer.eps=1.0", "max_bad_share=0.1")  # fmt: skip
    teacher = ("--teacher", "teacher") if recipe == "demo-clip-kd" else ()
    return [
        "distill",
        recipe,
        *(f"--set={each}" for each in settings),
        "--data",
        data,
        *teacher,
        "--out",
        out,
    ]


def _torchrun(processes: int, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--no-python"]
    program = [sys.executable, "-c", "from kdx.cli import main; main()"]
    return subprocess.run(
        [sys.executable, *launch, *program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
