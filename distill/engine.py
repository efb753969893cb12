"""The training engine: one readable loop from a recipe and shards to a sealed run with a student in it.

A run folder (kind `run`) holds `recipe.toml` (resolved), `metrics.jsonl`, `skipped.jsonl` (samples whose image
does not decode) and `student/`, a Checkpoint.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import tomli_w
import torch

from kdx.core.errors import UsageError
from kdx.core.folders import check_free, sealed_folder
from kdx.core.log import MetricsLog
from kdx.core.progress import Progress, silent
from kdx.data.loader import Batch, Loader, ViewReader
from kdx.data.shards import ShardSet
from kdx.models.architectures import preprocess_of, read_architecture
from kdx.models.checkpoint import RUN_KIND, save_checkpoint
from kdx.models.clip import ClipModel
from kdx.models.clip_vocabulary import clip_tokenizer
from kdx.runtime.torch import TorchEncoder

from .objective import Embeddings, Objective
from .optimizer import build_optimizer, learning_rate
from .recipe import Recipe
from .student import build_student, check_student
from .teacher_cache import TeacherCache, open_cache

LOG_EVERY = 10  # steps
MAX_LOG_SCALE = 4.6052  # ln 100, CLIP's limit on logit_scale


@dataclass(frozen=True)
class RunResult:
    """What a finished run reports. final_loss: mean of the last logged steps; bad_images: skipped samples."""

    path: Path
    student: Path
    final_loss: float
    seconds: float
    bad_images: int
    cache_reused: bool | None


def open_teacher(
    recipe: Recipe,
    samples: ShardSet,
    teacher: Path | None,
    cache: Path | None,
    *,
    progress: Progress = silent,
) -> TeacherCache | None:
    """The cached embeddings of the recipe's teacher; computed and sealed at `cache` if nothing lies there.

    teacher: a checkpoint or run, given exactly when the objective distils or the student inherits from it. Raises
    UsageError otherwise, and for a student that cannot start as the recipe says.
    """
    check_student(recipe, read_architecture(recipe.student), teacher)
    if not recipe.objective.needs_teacher:
        if teacher is not None and not recipe.needs_teacher:
            raise UsageError(
                "the recipe's objective does not use a teacher",
                remedy="leave --teacher out, or set objective.crd, objective.fd or objective.icl",
            )
        return None
    if teacher is None or cache is None:
        raise UsageError(
            "the recipe's objective distils and needs a teacher", remedy="pass --teacher CHECKPOINT"
        )
    with TorchEncoder.open(teacher) as encoder:
        return open_cache(
            cache, encoder, samples, recipe.views, max_bad_share=recipe.max_bad_share, progress=progress
        )


def train(
    recipe: Recipe,
    samples: ShardSet,
    out: Path,
    *,
    cached: TeacherCache | None = None,
    teacher: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> RunResult:
    """Trains the recipe's student on `samples` and seals the run at `out`.

    cached: what `open_teacher` returned; teacher: what it was given. Raises UsageError for what cannot be,
    DataError for bad shards; nothing is left at `out` then.
    """
    started = time.monotonic()
    check_free(out, RUN_KIND, overwrite=overwrite)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = read_architecture(recipe.student)
    model, inputs = build_student(recipe, architecture, teacher)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = _build_objective(recipe, architecture["embed_dim"], cached).to(device)
    preprocess, tokenizer = preprocess_of(architecture), clip_tokenizer()
    reader = ViewReader(samples, preprocess, recipe.views, max_bad_share=recipe.max_bad_share)
    loader = Loader(
        reader, tokenizer, context_length=model.context_length, batch_size=recipe.batch_size, seed=recipe.seed
    )
    inputs["data"] = samples.digest
    seeds = {"recipe": recipe.seed, "views": recipe.views.seed}
    with sealed_folder(out, RUN_KIND, overwrite=overwrite, inputs=inputs, seeds=seeds) as folder:
        (folder / "recipe.toml").write_text(tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)))
        with MetricsLog(folder / "metrics.jsonl") as metrics:
            loop = _Loop(recipe, model, objective, cached, device)
            final_loss = loop.run(loader, preprocess.mean, preprocess.std, metrics, progress)
        _write_skipped(folder / "skipped.jsonl", reader)
        save_checkpoint(folder / "student", model, architecture, tokenizer, inputs=inputs, seeds=seeds)
    return RunResult(
        path=out,
        student=out / "student",
        final_loss=final_loss,
        seconds=time.monotonic() - started,
        bad_images=len(reader.bad),
        cache_reused=None if cached is None else cached.reused,
    )


class _Loop:
    """The steps of one run."""

    def __init__(
        self,
        recipe: Recipe,
        model: ClipModel,
        objective: Objective,
        cached: TeacherCache | None,
        device: torch.device,
    ) -> None:
        self.recipe, self.model, self.objective, self.cached, self.device = (
            recipe,
            model,
            objective,
            cached,
            device,
        )
        self.optimizer = build_optimizer((model, objective), recipe.optimizer)

    def run(
        self,
        loader: Loader,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        metrics: MetricsLog,
        progress: Progress,
    ) -> float:
        """All steps; returns the mean loss since the last logged step."""
        self.model.train()
        scale = torch.tensor(std, device=self.device).mul(255).view(3, 1, 1)
        shift = torch.tensor(mean, device=self.device).mul(255).view(3, 1, 1)
        last_loss, waited, since = float("nan"), 0.0, time.monotonic()
        asked = time.monotonic()
        for batch in loader.batches(0, self.recipe.steps):
            waited += time.monotonic() - asked
            pixels = (
                torch.from_numpy(batch.pixels).to(self.device).permute(0, 3, 1, 2)
            )  # [B, 3, S, S], channels last
            numbers = self.step(batch, (pixels - shift) / scale)
            done = batch.step + 1
            if done % LOG_EVERY == 0 or done == self.recipe.steps:
                now = time.monotonic()
                written = {name: float(value) for name, value in numbers.items()}
                last_loss = written["loss"]
                metrics.write(
                    step=done,
                    epoch=done / loader.steps_per_epoch,
                    **written,
                    seconds_waiting_share=waited / max(now - since, 1e-9),
                )
                waited, since = 0.0, now
                progress(done, self.recipe.steps, f"loss {last_loss:.3f}")
            asked = time.monotonic()
        return last_loss

    def step(self, batch: Batch, pixels: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """One optimiser step. pixels: float32 [B, 3, S, S], normalised. Returns the numbers to log."""
        lr = learning_rate(self.recipe.optimizer, batch.step, self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        tokens = torch.from_numpy(batch.tokens).to(self.device)
        student = Embeddings(
            image=self.model.encode_image(pixels),
            text=self.model.encode_text(tokens),
            scale=self.model.logit_scale.exp(),
        )
        teacher = None
        if self.cached is not None:
            teacher = self.cached.embeddings(batch.rows, batch.views, batch.captions, self.device)
        loss, terms = self.objective(student, teacher)
        if not torch.isfinite(loss):
            _fail_not_finite(batch.step, terms)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.optimizer.clip_grad_norm is not None:
            parameters = [*self.model.parameters(), *self.objective.parameters()]
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return {
            "loss": loss.detach(),
            **{name: term.detach() for name, term in terms.items()},
            "lr": lr,
            "logit_scale": student.scale.detach(),
            **self._teacher_cosine(student, teacher),
        }

    def _teacher_cosine(self, student: Embeddings, teacher: Embeddings | None) -> dict[str, torch.Tensor]:
        """Mean cosine of matching image embeddings, which the paper names as the reason for success."""
        if teacher is None:
            return {}
        with torch.no_grad():
            return {"teacher_cosine": self.objective.teacher_cosine(student, teacher)}


def _build_objective(recipe: Recipe, student_dim: int, cached: TeacherCache | None) -> Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Objective(recipe.objective, student_dim, None if cached is None else cached.embed_dim)


def _fail_not_finite(step: int, terms: dict[str, torch.Tensor]) -> None:
    names = [name for name, term in terms.items() if not torch.isfinite(term)]
    raise UsageError(
        f"the loss is not finite at step {step + 1}: {', '.join(names) or 'the sum'}",
        remedy="lower optimizer.lr or the weight of that term",
    )


def _write_skipped(path: Path, reader: ViewReader) -> None:
    lines = [
        json.dumps({"key": reader.samples.keys[row], "why": why}) for row, why in sorted(reader.bad.items())
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
