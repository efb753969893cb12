"""Student and objective as one module: what DistributedDataParallel wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdx.models.clip import ClipModel
from kdx.models.masking import encode_masked_image

from .accumulation import Pulled
from .devices import Device
from .objective import Embeddings, Objective
from .text_blocks import Texts


@dataclass(frozen=True)
class Inputs:
    """What the student gets of a batch, or of a part of one. pixels: float32 [b, 3, S, S], normalised.

    dropout_seed: of the random numbers of its forward pass. mask_seed: of the hidden patches of the whole batch, of all
    processes, in which its rows stand at `places`, int64 [b].
    """

    pixels: Tensor
    texts: Texts
    dropout_seed: int
    mask_seed: int
    places: Tensor


class Distillation(nn.Module):
    """From a batch to its loss. Towers run in the device's precision, the objective in float32."""

    def __init__(self, model: ClipModel, objective: Objective, device: Device) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.device = device

    def forward(
        self, inputs: Inputs, teachers: Sequence[Embeddings] = (), pulled: Pulled | None = None
    ) -> dict[str, Tensor]:
        """The numbers of the batch: "loss", which alone has a gradient, each weighted term, "logit_scale", and with
        teachers "teacher_cosine"; [] each. pulled: where the loss is known already, "loss" has its gradient.
        """
        student = self.embed(inputs)
        return self.judge(student, teachers) if pulled is None else {"loss": pulled.product(student)}

    def embed(self, inputs: Inputs) -> Embeddings:
        config = self.objective.config
        torch.manual_seed(inputs.dropout_seed)
        masked = None
        with self.device.autocast():
            if config.masks_patches:
                generator = torch.Generator().manual_seed(inputs.mask_seed)
                masked = encode_masked_image(
                    self.model, inputs.pixels, config.mask_ratio, generator, inputs.places
                )
            image = self.model.encode_image(inputs.pixels)
            text = inputs.texts.encode(self.model)
        return self.with_scale(image, text, masked)

    def with_scale(self, image: Tensor, text: Tensor, masked_image: Tensor | None) -> Embeddings:
        """Embeddings of the student, with its multiplier and bias."""
        return Embeddings(image, text, self.model.logit_scale.exp(), self.model.logit_bias, masked_image)

    def parameters_outside_towers(self) -> list[nn.Parameter]:
        """Scale, bias, and what the objective learns."""
        own = [self.model.logit_scale, self.model.logit_bias]
        return [each for each in (*own, *self.objective.parameters()) if each is not None]

    def judge(self, student: Embeddings, teachers: Sequence[Embeddings]) -> dict[str, Tensor]:
        loss, terms = self.objective(student, teachers)
        numbers = {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
        numbers["logit_scale"] = student.scale.detach()
        if teachers:
            with torch.no_grad():
                cosine = self.objective.teacher_cosine(student, teachers)
            if cosine is not None:
                numbers["teacher_cosine"] = cosine
        return numbers
