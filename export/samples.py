"""The held-out images and texts that the parity gate compares on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.core.preprocess import ImageSource
from kdx.core.prompts import DEFAULT_TEMPLATES
from kdx.data.sampling import readable_samples
from kdx.data.shards import open_split, read_templates

SAMPLES = 1000


@dataclass(frozen=True)
class ParitySamples:
    """images, texts: held out from training. classes: labels whose choice must agree; None: the texts stand in."""

    images: Sequence[ImageSource]
    texts: Sequence[str]
    classes: Sequence[str] | None = None
    templates: Sequence[str] = DEFAULT_TEMPLATES


def read_parity_samples(folder: Path, limit: int = SAMPLES) -> ParitySamples:
    """At most `limit` evenly spaced samples of the set's val split; images that do not decode are left out.

    Raises DataError if the split is missing or holds no image that decodes.
    """
    samples = open_split(folder, "val")
    chosen = readable_samples(samples, limit)
    images = [sample.image for sample in chosen]
    texts = [sample.captions[0] for sample in chosen]
    templates = read_templates(folder) or DEFAULT_TEMPLATES
    return ParitySamples(images, texts, samples.classes, templates)
