"""The images and texts that set the ranges of int8: of the train split, and none that the gate will judge by."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from kdx.core.errors import DataError
from kdx.core.preprocess import ImageSource, read_encoded
from kdx.core.prompts import DEFAULT_TEMPLATES, prompt_texts
from kdx.data.sampling import readable_samples
from kdx.data.shards import open_split, read_templates

from .samples import ParitySamples

log = logging.getLogger(__name__)

SAMPLES = 1000
MIN_IMAGES = 32  # distinct ones; half of them set ranges, and a range of 16 images misses what a 17th holds
MIN_TEXTS = 4  # distinct ones: captions, or the prompts of two classes


def read_calibration_samples(folder: Path, held_out: ParitySamples, limit: int = SAMPLES) -> ParitySamples:
    """At most `limit` evenly spaced samples of the set's train split, without images that are in `held_out` too.

    Raises DataError if there is no train split, or too few distinct images or texts in it.
    """
    samples = open_split(folder, "train", need_captions=False)
    taken = _digests(held_out.images)
    chosen = [sample for sample in readable_samples(samples, limit) if _digest(sample.image) not in taken]
    if len(chosen) < min(limit, len(samples)):
        log.warning(
            "%d of %d training images do not decode or are in the val split too; int8 is calibrated without them",
            min(limit, len(samples)) - len(chosen),
            min(limit, len(samples)),
        )
    templates = read_templates(folder) or DEFAULT_TEMPLATES
    captions = [sample.captions[0] for sample in chosen if sample.captions]
    texts = captions or prompt_texts(samples.classes or (), templates)[:limit]
    found = ParitySamples([sample.image for sample in chosen], texts, samples.classes, templates)
    check_enough(found, folder)
    return found


def check_enough(calibration: ParitySamples, where: Path | None = None) -> None:
    """Raises DataError for too few distinct images or texts."""
    images, texts = len(_digests(calibration.images)), len(set(calibration.texts))
    if images < MIN_IMAGES or texts < MIN_TEXTS:
        raise DataError(
            f"{images} distinct images and {texts} distinct texts of the train split are too few to calibrate int8 on;"
            f" {MIN_IMAGES} and {MIN_TEXTS} are needed",
            where=where,
            remedy="give a set with a larger train split, or export in fp32",
        )


def check_disjoint(calibration: ParitySamples, held_out: ParitySamples) -> None:
    """Raises DataError if the gate would judge by an image that int8 was calibrated on."""
    if shared := _digests(calibration.images) & _digests(held_out.images):
        raise DataError(
            f"{len(shared)} images are given both to calibrate int8 and to judge it",
            remedy="calibrate on training images, by kdx.export.calibration.read_calibration_samples",
        )


def _digests(images: Iterable[ImageSource]) -> set[str]:
    return {_digest(image) for image in images}


def _digest(image: ImageSource) -> str:
    return hashlib.sha256(read_encoded(image)).hexdigest()
