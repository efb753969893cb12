"""The held-out images and texts that the parity gate compares on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource
from kdx.core.prompts import DEFAULT_TEMPLATES, prompt_texts
from kdx.data.sampling import readable_samples
from kdx.data.shards import open_split, read_templates

SAMPLES = 1000


@dataclass(frozen=True)
class ParitySamples:
    """images, texts: held out from training. classes: labels whose choice must agree; None: the texts stand in.

    paired: text i belongs to image i, so that finding one by the other is a decision too.
    """

    images: Sequence[ImageSource]
    texts: Sequence[str]
    classes: Sequence[str] | None = None
    templates: Sequence[str] = DEFAULT_TEMPLATES
    paired: bool = False


def read_parity_samples(folder: Path, limit: int = SAMPLES) -> ParitySamples:
    """At most `limit` evenly spaced samples of the set's val split; images that do not decode are left out.

    Where there are no captions, the prompts of the classes are the texts. Raises DataError if the split is missing,
    holds no image that decodes, or has neither captions nor classes.
    """
    samples = open_split(folder, "val", need_captions=False)
    chosen = readable_samples(samples, limit)
    images = [sample.image for sample in chosen]
    templates = read_templates(folder) or DEFAULT_TEMPLATES
    captions = [sample.captions[0] for sample in chosen if sample.captions]
    texts = captions or prompt_texts(samples.classes or (), templates)[:limit]
    if not texts:
        raise DataError(
            "the val split has neither captions nor classes to take texts from",
            where=folder,
            remedy="add KEY.txt to the shards, or classes.txt",
        )
    return ParitySamples(images, texts, samples.classes, templates, paired=len(captions) == len(images))
