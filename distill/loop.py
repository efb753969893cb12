"""The training loop: steps over batches, their numbers, and the last good weights."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.log import MetricsLog
from kdx.core.preprocess import normalize_levels
from kdx.core.progress import Progress
from kdx.data.loader import Batch, Loader, ViewReader, check_bad_share
from kdx.data.sample import key_digest
from kdx.data.views import philox
from kdx.models.clip import ClipModel
from kdx.models.masking import encode_masked_image

from .objective import Embeddings, Objective
from .optimizer import build_optimizer
from .ranks import Ranks
from .recipe import Recipe
from .schedule import Schedule
from .teacher_cache import TeacherCache

LOG_EVERY = 10  # steps
KEEP_EVERY = 50  # steps between copies of the weights
MAX_LOG_SCALE = 4.6052  # ln 100, CLIP's limit on logit_scale
# streams of random numbers
MASKS = key_digest("masks of mfd")
DROPOUT = key_digest("dropout and stochastic depth")


class Stopped(Exception):
    """The run cannot go on. Every rank raises it at the same step, with the same error."""

    def __init__(self, error: KdxError) -> None:
        super().__init__(str(error))
        self.error = error


class Loop:
    """The steps of one run. steps: how many have made the model's weights as they are."""

    def __init__(
        self,
        recipe: Recipe,
        schedule: Schedule,
        model: ClipModel,
        objective: Objective,
        caches: Sequence[TeacherCache],
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.recipe, self.schedule = recipe, schedule
        self.model, self.objective = model, objective
        self.caches, self.device, self.ranks = tuple(caches), device, ranks
        self.optimizer = build_optimizer((model, objective), recipe.optimizer)
        self.steps = 0
        self._good = (0, _copied(model.state_dict()))

    def run(
        self,
        loader: Loader,
        reader: ViewReader,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        metrics: MetricsLog | None,
        progress: Progress,
    ) -> dict[str, float]:
        """All steps; returns the numbers of the last. Each step seeds torch's own generator.

        Raises Stopped when a loss is not finite, with the last good weights put back, and when too many images do
        not decode; SetupError when the GPU's memory does not suffice.
        """
        self.model.train()
        by_channel = [torch.tensor(values, device=self.device).view(3, 1, 1) for values in (mean, std)]
        written: dict[str, float] = {}
        waited, since = 0.0, time.monotonic()
        asked = time.monotonic()
        for batch in loader.batches(0, self.schedule.steps):
            waited += time.monotonic() - asked
            pixels = (
                torch.from_numpy(batch.pixels).to(self.device).permute(0, 3, 1, 2)
            )  # [B, 3, S, S], channels last
            try:
                numbers = self.step(batch, normalize_levels(pixels.float(), *by_channel))
            except torch.OutOfMemoryError:
                raise SetupError(
                    f"the GPU's memory is too small for batch_size = {self.schedule.batch_size}",
                    remedy="lower batch_size, or --set model.grad_checkpointing=true",
                ) from None
            self.steps = done = batch.step + 1
            if done % LOG_EVERY == 0 or done == self.schedule.steps:
                now = time.monotonic()
                written = {name: float(value) for name, value in numbers.items()}
                bad = self.ranks.merge(dict(reader.bad))  # decoding threads add to it
                try:
                    check_bad_share(bad, reader.samples, self.recipe.max_bad_share)
                except DataError as error:
                    raise Stopped(error) from None
                if metrics is not None:
                    metrics.write(
                        step=done,
                        epoch=done / loader.steps_per_epoch,
                        **written,
                        seconds_waiting_share=waited / max(now - since, 1e-9),
                    )
                waited, since = 0.0, now
                progress(done, self.schedule.steps, f"loss {written['loss']:.3f}")
            asked = time.monotonic()
        return written

    def step(self, batch: Batch, pixels: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """One optimiser step. pixels: float32 [B, 3, S, S], normalised. Returns the numbers to log."""
        lr = self.schedule.learning_rate(self.recipe.optimizer.lr, batch.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(self._step_seed(DROPOUT, batch.step))
        student = self._student(batch, pixels)
        teachers = [
            cache.embeddings(batch.rows, batch.views, batch.captions, self.device) for cache in self.caches
        ]
        loss, terms = self.objective(student, teachers)
        if not torch.isfinite(loss):
            bad = [name for name, term in terms.items() if not torch.isfinite(term)]
            self.steps, weights = self._good
            self.model.load_state_dict(weights)
            raise Stopped(
                UsageError(
                    f"the loss is not finite at step {batch.step + 1}: {', '.join(bad) or 'the sum'}",
                    remedy="lower optimizer.lr or that term's weight",
                )
            )
        if batch.step % KEEP_EVERY == 0:
            self._good = (batch.step, _copied(self.model.state_dict()))
        self.optimizer.zero_grad()
        loss.backward()
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.ranks.average_gradients(parameters)
        if self.recipe.optimizer.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return {
            "loss": loss.detach(),
            **{name: term.detach() for name, term in terms.items()},
            "lr": lr,
            "logit_scale": student.scale.detach(),
            **self._teacher_cosine(student, teachers),
        }

    def _student(self, batch: Batch, pixels: torch.Tensor) -> Embeddings:
        tokens = torch.from_numpy(batch.tokens).to(self.device)
        masked = None
        if self.recipe.objective.masks_patches:
            generator = torch.Generator().manual_seed(self._step_seed(MASKS, batch.step))
            masked = encode_masked_image(self.model, pixels, self.recipe.objective.mask_ratio, generator)
        return Embeddings(
            image=self.model.encode_image(pixels),
            text=self.model.encode_text(tokens),
            scale=self.model.logit_scale.exp(),
            bias=self.model.logit_bias,
            masked_image=masked,
        )

    def _step_seed(self, stream: int, step: int) -> int:
        """Of this step's random numbers; ranks draw different ones."""
        return int(philox(self.recipe.seed, stream, step * self.ranks.size + self.ranks.rank).integers(2**63))

    def _teacher_cosine(self, student: Embeddings, teachers: Sequence[Embeddings]) -> dict[str, torch.Tensor]:
        """How near the student's image embeddings are to the teachers'."""
        if not teachers:
            return {}
        with torch.no_grad():
            return {"teacher_cosine": self.objective.teacher_cosine(student, teachers)}


def _copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}
