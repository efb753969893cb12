"""Views: which crop of a sample is seen. A pure function of (seed, key, view), so nothing needs to be stored.

A view is a box, given to the model's own preprocessing, and maybe mirrored.
A run sees K views of each sample in turn (view = epoch mod K); a teacher cache holds exactly those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from kdx.core.config import Config
from kdx.core.preprocess import Box

# Part of a teacher cache's identity, so that a cache of other crops is not taken: change it with what decides on them
# or on their pixels.
RULES = (
    "RandomResizedCrop of torchvision, by random.Random of seed/key/view, flip drawn last; pixels of "
    "libjpeg-turbo and torch's uint8 resize in Pillow's order of passes, within 2 levels of Pillow's"
)

ATTEMPTS = 10
RATIO = (3 / 4, 4 / 3)


class ViewConfig(Config):
    """RandomResizedCrop with a fixed number of crops a sample; the scale is CLIP-KD's (arXiv 2307.12732, training)."""

    num_views: int = Field(
        default=1, ge=1, le=256, description="K, the number of different crops of a sample"
    )
    scale: tuple[float, float] = Field(
        default=(0.9, 1.0), description="smallest and largest share of the area"
    )
    flip: bool = Field(
        default=False, description="mirror half of the views; off in CLIP-KD, captions say left and right"
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="decides the crops; apart from the run's seed, so that runs share a cache",
    )
    decode: Literal["exact", "scaled"] = Field(
        default="exact",
        description="scaled: the student's photos of twice the needed size and more are decoded at ½, ¼ or ⅛, "
        "faster and a level or two off; teacher caches and evaluation are always exact",
    )

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> ViewConfig:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("views.scale must be two shares of the area, 0 < smallest ≤ largest ≤ 1")
        return self


def philox(seed: int, stream: int, counter: int = 0) -> np.random.Generator:
    """A counter-based generator: the same numbers for the same three integers, in any order and process."""
    return np.random.Generator(np.random.Philox(key=(stream << 64) | seed, counter=counter << 64))


@dataclass(frozen=True)
class View:
    """What of an image is seen. box: None is the model's own choice for evaluation."""

    box: Box | None = None
    mirrored: bool = False


WHOLE = View()


def choose_view(config: ViewConfig, key: int, view: int, width: int, height: int) -> View:
    """One view of an image of that size. key: key_digest of the sample's key; view: 0 … num_views − 1."""
    random = Random(f"{config.seed}/{key}/{view}")  # made in a third of the time of a Philox generator
    box = _crop_box(random, width, height, config.scale)
    return View(box, mirrored=config.flip and random.random() < 0.5)


def _crop_box(random: Random, width: int, height: int, scale: tuple[float, float]) -> Box:
    """torchvision's RandomResizedCrop: area and log aspect ratio are uniform; a centre crop when none fits."""
    log_ratio = (math.log(RATIO[0]), math.log(RATIO[1]))
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(*scale)
        ratio = math.exp(random.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = random.randrange(width - w + 1), random.randrange(height - h + 1)
            return left, upper, left + w, upper + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h
