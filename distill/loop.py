"""The training loop: steps over batches, their numbers, and the last good weights.

Nothing in a step waits for the device, except every LOG_EVERY steps, where numbers are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.core.log import MetricsLog
from kdx.core.preprocess import normalize_levels
from kdx.core.progress import Progress
from kdx.data.loader import Batch, Loader, ViewReader, check_bad_share
from kdx.data.sample import key_digest
from kdx.data.views import philox

from .accumulation import backward_in_parts
from .compiled_towers import allowed_lengths
from .devices import Device
from .distillation import Distillation, Inputs
from .finite_check import FiniteCheck
from .pace import Pace
from .ranks import Ranks
from .recipe import Recipe
from .run_state import RunState
from .schedule import Schedule
from .teacher_source import TeacherSource
from .text_blocks import Texts
from .tracking import TrackedLog
from .validation import Validation, beside

LOG_EVERY = 10  # steps
KEEP_EVERY = 50  # steps between copies of the weights, a multiple of LOG_EVERY
MAX_LOG_SCALE = 4.6052  # ln 100, CLIP's limit on logit_scale; SigLIP has none, and published ones lie above
# streams of random numbers
MASKS = key_digest("masks of mfd")
DROPOUT = key_digest("dropout and stochastic depth")


class Stopped(Exception):
    """The run cannot go on. Every rank raises it at the same step, with the same error."""

    def __init__(self, error: KdxError) -> None:
        super().__init__(str(error))
        self.error = error


class Loop:
    """The steps of one run, which change its state."""

    def __init__(
        self,
        recipe: Recipe,
        schedule: Schedule,
        state: RunState,
        teachers: Sequence[TeacherSource],
        device: Device,
        ranks: Ranks,
        validation: Validation | None = None,
    ) -> None:
        self.recipe, self.schedule, self.state = recipe, schedule, state
        self.validation = validation
        self.teachers, self.device, self.ranks = tuple(teachers), device, ranks
        distillation = Distillation(state.model, state.objective, device)
        self._max_log_scale = MAX_LOG_SCALE if recipe.objective.contrast == "softmax" else None
        self.distillation = ranks.share(distillation, backwards=recipe.accumulate)
        self._finite = FiniteCheck(device.place)
        self._pace = Pace(recipe, schedule.batch_size, device)
        self.captions_read = self.captions_cut = 0  # of this process: longer than the context
        self._good = (state.step, _copied(state.model.state_dict()))

    def run(
        self,
        loader: Loader,
        reader: ViewReader,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        metrics: MetricsLog | TrackedLog | None,
        progress: Progress,
        after_step: Callable[[dict[int, str] | None], None],
    ) -> dict[str, float]:
        """All steps that are left; returns the numbers of the last. Each step seeds torch's own generator.

        after_step: called after each, where numbers were read with the bad images of all ranks.

        Raises Stopped when a loss is not finite, with the last good weights put back, and when too many images do
        not decode; SetupError when the GPU's memory does not suffice.
        """
        self.state.model.train()
        by_channel = [torch.tensor(values, device=self.device.place).view(3, 1, 1) for values in (mean, std)]
        written: dict[str, float] = {}
        self._pace.restart()
        asked = time.monotonic()
        for batch in loader.batches(self.state.step, self.schedule.steps):
            self._pace.waited(time.monotonic() - asked)
            pixels = self.device.copied(batch.pixels).permute(0, 3, 1, 2)  # [b, 3, S, S], channels last
            try:
                numbers = self.step(batch, normalize_levels(pixels.float(), *by_channel))
            except torch.OutOfMemoryError:
                raise SetupError(
                    f"the GPU's memory is too small for batch_size = {self.schedule.batch_size}",
                    remedy="--set accumulate=2 or more, or --set model.grad_checkpointing=true",
                ) from None
            self.captions_read += len(batch.captions)
            self.captions_cut += batch.cut
            self.state.step = done = batch.step + 1
            bad: dict[int, str] | None = None
            if self._reads_numbers(done):
                written = self._read(numbers)
                pace = self._pace.read()
                bad = self.ranks.merge(dict(reader.bad))  # decoding threads add to it
                try:
                    check_bad_share(bad, reader.samples, self.recipe.max_bad_share)
                except DataError as error:
                    raise Stopped(error) from None
                written |= self._scores(done, progress)
                if metrics is not None:
                    metrics.write(step=done, epoch=done / loader.steps_per_epoch, **written, **pace)
                progress(done, self.schedule.steps, _note(written, pace))
                self._pace.restart()
            after_step(bad)
            asked = time.monotonic()
        return written

    def step(self, batch: Batch, pixels: Tensor) -> dict[str, Tensor]:
        """One optimiser step. pixels: float32 [b, 3, S, S], normalised. Returns the numbers to log."""
        state, settings = self.state, self.recipe.optimizer
        lr = self.schedule.learning_rate(settings.lr, batch.step)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        parts = self._parts(batch, pixels)
        self._pace.stepped(parts)
        teachers = [teacher.of_batch(batch, self.device.place) for teacher in self.teachers]
        state.optimizer.zero_grad()
        if len(parts) == 1:
            numbers = self.distillation(parts[0], teachers)
            state.scaler.scale(numbers["loss"]).backward()
        else:
            numbers = backward_in_parts(self.distillation, parts, teachers, state.scaler)
        self._finite.note(batch.step, numbers)
        if self._reads_numbers(batch.step + 1):
            self._keep_or_stop(batch.step)
        if settings.clip_grad_norm is not None:
            state.scaler.unscale_(state.optimizer)
            parameters = [*state.model.parameters(), *state.objective.parameters()]
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        with torch.no_grad():
            state.model.logit_scale.clamp_(0, self._max_log_scale)
        if state.average is not None:
            state.average.update(batch.step + 1)
        return {name: number.detach() for name, number in numbers.items()}

    def _parts(self, batch: Batch, pixels: Tensor) -> list[Inputs]:
        """The batch in as many parts as the recipe says."""
        model, count = self.state.model, self.recipe.accumulate
        width, blocks = model.text_width, self.recipe.text_blocks
        padding = self.recipe.architecture.text_padding
        allowed = allowed_lengths(model.context_length) if self.recipe.compile else ()
        # the processes take the rows of a batch in turn (kdx/data/order.py)
        places = self.ranks.rank + self.ranks.size * torch.arange(len(pixels))
        split = (pixels.tensor_split(count), np.array_split(batch.tokens, count), places.tensor_split(count))
        return [
            Inputs(
                some,
                Texts.of(tokens, self.device, width, blocks, allowed, padding=padding, pad_id=batch.pad_id),
                dropout_seed=self._seed(DROPOUT, self._part_number(batch.step, part)),
                mask_seed=self._seed(MASKS, batch.step),
                places=own,
            )
            for part, (some, tokens, own) in enumerate(zip(*split, strict=True))
        ]

    def _reads_numbers(self, done: int) -> bool:
        return done % LOG_EVERY == 0 or done == self.schedule.steps or self._is_validated(done)

    def _is_validated(self, done: int) -> bool:
        return self.validation is not None and self.validation.is_due(done)

    def _scores(self, done: int, progress: Progress) -> dict[str, float]:
        if self.validation is None or not self.validation.is_due(done):
            return {}
        return self.validation.score(done, beside(progress, done, self.schedule.steps, "scoring"))

    def _read(self, numbers: dict[str, Tensor]) -> dict[str, float]:
        """The means over the ranks, as numbers, with the learning rate of the step. Waits for the device."""
        means = self.ranks.mean(torch.stack(list(numbers.values()))).tolist()
        return {**dict(zip(numbers, means, strict=True)), "lr": self.state.optimizer.param_groups[0]["lr"]}

    def _keep_or_stop(self, step: int) -> None:
        """Before the update of a step: copies the weights, if all losses up to here were finite and it is time.

        Raises Stopped on all ranks where one was not, with the weights of the last copy put back.
        """
        found = [each for each in self.ranks.merge({self.ranks.rank: self._finite.found()}).values() if each]
        if found:
            bad_step, names = min(found)
            self.state.step, weights = self._good
            self.state.model.load_state_dict(weights)
            terms = [name for name in names if name in self.recipe.objective.terms]
            raise Stopped(
                UsageError(
                    f"the loss is not finite at step {bad_step + 1}: {', '.join(terms) or 'the sum'}",
                    remedy="lower optimizer.lr or that term's weight",
                )
            )
        if (step + 1) % KEEP_EVERY == 0:
            self._good = (step, _copied(self.state.model.state_dict()))

    def _seed(self, stream: int, number: int) -> int:
        return int(philox(self.recipe.seed, stream, number).integers(2**63))

    def _part_number(self, step: int, part: int) -> int:
        """Another one for each part of a step on each rank."""
        return (step * self.ranks.size + self.ranks.rank) * self.recipe.accumulate + part


def _note(numbers: dict[str, float], pace: dict[str, float]) -> str:
    """The numbers that stand beside the progress."""
    words = [f"loss {numbers['loss']:.3f}"]
    if "teacher_cosine" in numbers:
        words.append(f"teacher cosine {numbers['teacher_cosine']:.2f}")
    for name, value in numbers.items():
        if name.startswith("val_"):
            words.append(f"{name.removeprefix('val_')} {100 * value:.1f} %")
    words.append(f"{pace['pairs_per_second']:,.0f} pairs/s")
    words.append(f"{100 * pace['seconds_waiting_share']:.0f} % waiting")
    if "mfu" in pace:
        words.append(f"MFU {100 * pace['mfu']:.0f} %")
    return ", ".join(words)


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}
