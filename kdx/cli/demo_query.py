"""The queries of `kdx demo`: embeddings, classes and search, asked of the server and compared with this process."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.cli.demo_screen import Screen
from kdx.cli.progress import show_progress

if TYPE_CHECKING:
    from kdx.bench import ClassifyExample, SearchExample
    from kdx.runtime.exported_model import ExportedModel
    from kdx.runtime.triton import TritonEmbedder

SEARCHED_IMAGES = 1_000
COMPARED = 64  # images and texts whose served embeddings are compared with those in this process
TOLERANCE = 1e-5  # on the elements of unit vectors; batches of another size sum in another order
EXAMPLES = 6


@dataclass(frozen=True)
class Answers:
    """What the report shows of the queries."""

    searches: list[SearchExample]
    classifications: list[ClassifyExample]


def ask(client: TritonEmbedder, exported: ExportedModel, data: Path, out: Path, screen: Screen) -> Answers:
    """Asks the server every kind of question and compares its answers with the exported model's in this process.

    Raises GateError where they differ by more than TOLERANCE.
    """
    from kdx.bench import ClassifyExample, SearchExample
    from kdx.data.sampling import readable_samples, spread
    from kdx.data.shards import open_split
    from kdx.runtime.onnx import OnnxEncoder
    from kdx.serve.search import ExactSearch

    samples = readable_samples(open_split(data, "val"), SEARCHED_IMAGES)
    shown = [samples[row] for row in spread(len(samples), EXAMPLES)]
    images = [sample.image for sample in samples[:COMPARED]]
    texts = [sample.captions[0] for sample in samples[:COMPARED]]
    labels, templates = _labels(data, shown)
    url = "grpc://localhost:8001"
    place = _write_example(out, shown[0].image)
    quoted = json.dumps(shown[0].captions[0], ensure_ascii=False)
    screen.command("Embed a text", f"kdx query text {url} {quoted}")
    screen.command("Embed an image", f"kdx query image {url} {place}")
    with OnnxEncoder(exported) as here:
        differences = {
            "image": _largest(client.embed_images(images) - here.embed_images(images)),
            "text": _largest(client.embed_texts(texts) - here.embed_texts(texts)),
        }
        options = " ".join(f"--label {json.dumps(label, ensure_ascii=False)}" for label in labels[:EXAMPLES])
        screen.command("Classify an image", f"kdx query classify {url} {place} {options}")
        pictures = [sample.image for sample in shown]
        served = client.classify(pictures, labels, templates=templates)
        local = here.classify(pictures, labels, templates=templates)
        differences["classification"] = max(
            (0.0 if there[0] == here_[0] else 1.0) + abs(there[1] - here_[1])
            for best, own in zip(served, local, strict=True)
            for there, here_ in zip(best[:1], own[:1], strict=True)
        )
    _check_equal(differences)
    screen.say(
        "served and in-process answers differ by at most "
        + ", ".join(f"{value:.1g} ({what})" for what, value in differences.items())
    )
    classifications = [
        ClassifyExample(sample.image, best, _truth(sample, labels, templates))
        for sample, best in zip(shown, served, strict=True)
    ]
    screen.command("Find images by text", f"kdx query search {url} {quoted} {data}")
    by_name = {sample.key: sample.image for sample in samples}
    with show_progress("embedding images") as progress:
        index = ExactSearch(client, by_name, progress=progress)
    searches: list[SearchExample] = []
    for query in dict.fromkeys(sample.captions[0] for sample in shown):
        hits = index.find(query, 8)
        searches.append(
            SearchExample(query, [by_name[name] for name, _ in hits], [cosine for _, cosine in hits])
        )
    return Answers(searches, classifications)


def _labels(folder: Path, shown: list[Any]) -> tuple[list[str], list[str]]:
    """Classes and prompts of the set; where it names no classes, the captions of the shown images compete."""
    from kdx.core.prompts import DEFAULT_TEMPLATES
    from kdx.data.shards import read_classes, read_templates

    classes = read_classes(folder)
    if classes:
        return classes, read_templates(folder) or list(DEFAULT_TEMPLATES)
    return list(dict.fromkeys(sample.captions[0] for sample in shown)), ["{}"]


def _truth(sample: Any, labels: list[str], templates: list[str]) -> str | None:
    if templates == ["{}"]:
        return sample.captions[0]
    return None if sample.label is None else labels[sample.label]


def _write_example(out: Path, image: bytes) -> Path:
    """One image as a file, so that the printed commands can be typed."""
    from PIL import Image

    from kdx.core.folders import write_atomic

    suffix = (Image.open(io.BytesIO(image)).format or "bin").lower().replace("jpeg", "jpg")
    path = out / f"example.{suffix}"
    write_atomic(path, image)
    return path


def _largest(differences: Any) -> float:
    return float(abs(differences).max())


def _check_equal(differences: dict[str, float]) -> None:
    from kdx.core.errors import GateError

    for what, difference in differences.items():
        if not difference <= TOLERANCE:
            raise GateError(
                f"the server's {what} answers differ from those in this process by {difference:.2g}",
                remedy="report it with the output of `kdx doctor --json`",
            )
