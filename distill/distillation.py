"""Student and objective as one module: what DistributedDataParallel wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdx.models.clip import ClipModel
from kdx.models.masking import encode_masked_image

from .devices import Device
from .objective import Embeddings, Objective


@dataclass(frozen=True)
class Inputs:
    """What the student gets of a batch. pixels: float32 [b, 3, S, S], normalised; tokens: int [b, L].

    dropout_seed and mask_seed: of the random numbers of its forward pass.
    """

    pixels: Tensor
    tokens: Tensor
    dropout_seed: int
    mask_seed: int


class Distillation(nn.Module):
    """From a batch to its loss. Towers run in the device's precision, the objective in float32."""

    def __init__(self, model: ClipModel, objective: Objective, device: Device) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.device = device

    def forward(self, inputs: Inputs, teachers: Sequence[Embeddings]) -> dict[str, Tensor]:
        """The numbers of the batch: "loss", which alone has a gradient, each weighted term, "logit_scale", and with
        teachers "teacher_cosine"; [] each.
        """
        return self.judge(self.embed(inputs), teachers)

    def embed(self, inputs: Inputs) -> Embeddings:
        config = self.objective.config
        torch.manual_seed(inputs.dropout_seed)
        masked = None
        with self.device.autocast():
            if config.masks_patches:
                generator = torch.Generator().manual_seed(inputs.mask_seed)
                masked = encode_masked_image(self.model, inputs.pixels, config.mask_ratio, generator)
            image = self.model.encode_image(inputs.pixels)
            text = self.model.encode_text(inputs.tokens)
        return Embeddings(image, text, self.model.logit_scale.exp(), self.model.logit_bias, masked)

    def judge(self, student: Embeddings, teachers: Sequence[Embeddings]) -> dict[str, Tensor]:
        loss, terms = self.objective(student, teachers)
        numbers = {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
        numbers["logit_scale"] = student.scale.detach()
        if teachers:
            with torch.no_grad():
                numbers["teacher_cosine"] = self.objective.teacher_cosine(student, teachers)
        return numbers
