"""`kdx demo`: the main job from images to answers, as a sequence of the ordinary commands' calls."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdx.cli.demo_screen import Screen
from kdx.cli.progress import show_progress

if TYPE_CHECKING:
    from kdx.bench import ClassifyExample, SearchExample
    from kdx.evaluate import Evaluation
    from kdx.runtime.exported_model import ExportedModel
    from kdx.serve.client import TritonClient

MARKER = "kdx-demo.json"  # says that a folder is a demo's, so that a later one may replace it

# The setting, fixed before any score was seen: what users have is few pairs with noisy captions, and a teacher
# that has seen more of them.
TRAIN, VAL = 20_000, 2_000
TEACHER_PAIRS, STUDENT_PAIRS = 30_000, 4_000  # at most; the student gets at most half of the set
WRONG_CAPTIONS = 0.3
SEED = 0

EVAL_IMAGES = 2_000
PARITY_IMAGES = 1_000
SEARCHED_IMAGES = 1_000
COMPARED = 64  # images and texts whose served embeddings are compared with those in this process
TOLERANCE = 1e-5  # on the elements of unit vectors; batches of another size sum in another order
BENCH_SECONDS = 20.0
EXAMPLES = 6


@click.command(name="demo")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with your own train and val (or test) shards. Default: a synthetic set is drawn.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("kdx-demo"),
    show_default=True,
    help="Folder for all that is made.",
)
@click.option("--overwrite", is_flag=True, help="Start afresh if OUT holds an earlier demo: it is removed.")
def command(data: Path | None, out: Path, overwrite: bool) -> None:
    """Run the whole chain: data, teacher, distillation, export, Triton, queries, report.

    Each stage prints the command that repeats it alone. Takes about six minutes on two cores, without a GPU,
    and needs Triton: kdx serve install.

    Example: kdx demo --data my-shards --out my-demo
    """
    from kdx.serve.environment import find_triton

    find_triton()  # before minutes of training
    screen = Screen()
    _clear(out, data, overwrite, screen)
    demo = _Demo(out, data or out / "shapes", own_data=data is not None, screen=screen)
    screen.end(out, demo.run())


def _clear(out: Path, data: Path | None, overwrite: bool, screen: Screen) -> None:
    """An empty folder with the marker at `out`. Nothing of an earlier demo is ever reused."""
    from kdx.core.errors import UsageError
    from kdx.core.folders import write_atomic

    if data is not None and data.resolve().is_relative_to(out.resolve()):
        raise UsageError("--data lies inside --out", where=data, remedy="choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise UsageError("holds something else than a demo", where=out, remedy="choose another --out")
        if not overwrite:
            raise UsageError(
                "holds an earlier demo",
                where=out,
                remedy="pass --overwrite to start afresh, or choose another --out",
            )
        screen.say(f"starting afresh: the earlier demo in {out} is removed, nothing of it is reused")
        shutil.rmtree(out)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_atomic(out / MARKER, json.dumps({"created": created, "data": data and str(data)}) + "\n")


@dataclass
class _Demo:
    """The stages in their order, and what later ones need of earlier ones."""

    out: Path
    data: Path
    own_data: bool
    screen: Screen
    scores: dict[str, Evaluation] = field(default_factory=dict)
    setting: dict[str, str | int | float] = field(default_factory=dict)
    searches: list[SearchExample] = field(default_factory=list)
    classifications: list[ClassifyExample] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """All stages. Returns what report.json says. The server is stopped whatever happens."""
        from kdx.serve.client import TritonClient
        from kdx.serve.supervisor import TritonServer

        with self.screen.stage("data"):
            self._make_data()
        with self.screen.stage("teacher"):
            self._train("teacher", "demo-teacher", "teacher-pairs")
        with self.screen.stage("distil"):
            self._train("baseline", "demo-baseline", "student-pairs")
            self._train("distilled", "demo-clip-kd", "student-pairs", teacher="teacher")
            gain = 100 * (self.scores["distilled"].score - self.scores["baseline"].score)
            self.screen.say(f"CLIP-KD: {gain:+.1f} points for the same student, pairs and steps")
        with self.screen.stage("export"):
            exported = self._export()
        server = TritonServer(self.out / "repository", self.out / "triton.log")
        try:
            with self.screen.stage("serve"):
                self._build_repository()
                self.screen.command("Serve it", f"kdx serve up {self.out / 'repository'}")
                server.__enter__()
                self.screen.say(f"ready at {server.url}: each model has answered a real inference")
            with TritonClient(server.url) as client:
                with self.screen.stage("query"):
                    self._query(client, exported)
                with self.screen.stage("bench"):
                    latency = self._measure(client)
                    version = client.connection.server_version()
        finally:
            server.stop()
        triton = {"version": version, "source": server.source}
        report = self._report(exported, latency, triton)
        self._write_report(report)
        return report

    def _make_data(self) -> None:
        from kdx.data.shards import open_split
        from kdx.data.subset import write_subset
        from kdx.data.synthetic import write_synthetic

        if not self.own_data:
            self.screen.command("Draw the set", f"kdx data synthetic {self.data} --train {TRAIN} --val {VAL}")
            with show_progress("drawing") as progress:
                write_synthetic(self.data, num_train=TRAIN, num_val=VAL, seed=SEED, progress=progress)
        samples = open_split(self.data, "train")
        open_split(self.data, "val")  # a missing one is said now, not after the training
        pairs = {
            "teacher-pairs": min(TEACHER_PAIRS, len(samples)),
            "student-pairs": min(STUDENT_PAIRS, len(samples) // 2),
        }
        for name, count in pairs.items():
            self.screen.command(
                f"Take {name.replace('-', ' ')}",
                f"kdx data subset {self.data} {self.out / name} --pairs {count} --wrong-captions {WRONG_CAPTIONS}",
            )
            wrong = write_subset(
                samples, self.out / name, pairs=count, wrong_captions=WRONG_CAPTIONS, seed=SEED
            )
            self.screen.say(f"{count:,} pairs, {wrong:,} of them with another image's caption")
        self.setting = {
            "data": str(self.data) if self.own_data else "synthetic shapes, 64 × 64 pixels",
            "pairs of the teacher": pairs["teacher-pairs"],
            "pairs of the students": pairs["student-pairs"],
            "share of wrong captions": WRONG_CAPTIONS,
        }

    def _train(self, name: str, recipe: str, pairs: str, teacher: str | None = None) -> None:
        import kdx
        from kdx.data.shards import open_split
        from kdx.distill.engine import open_teacher, train
        from kdx.distill.recipe import read_recipe
        from kdx.evaluate import evaluate_dataset

        run, data = self.out / name, self.out / pairs
        samples = open_split(data, "train")
        settings = _fitting_batch(recipe, len(samples))
        options = [f"--data {data}", *(f"--set {setting}" for setting in settings)]
        if teacher:
            options.append(f"--teacher {self.out / teacher}")
        self.screen.command(
            f"Train the {name} model", f"kdx distill {recipe} {' '.join(options)} --out {run}"
        )
        resolved = read_recipe(recipe, settings)
        cached = None
        if teacher:
            with show_progress("teacher cache") as progress:
                cache = run.with_name(run.name + ".cache")
                cached = open_teacher(resolved, samples, self.out / teacher, cache, progress=progress)
        with show_progress("training") as progress:
            result = train(resolved, samples, run, cached=cached, progress=progress)
        if result.bad_images:
            self.screen.say(f"skipped {result.bad_images} images that do not decode: {run / 'skipped.jsonl'}")
        self.screen.command(
            f"Evaluate the {name} model", f"kdx eval {run} --data {self.data} --limit {EVAL_IMAGES}"
        )
        with kdx.load(run) as encoder, show_progress("evaluation") as progress:
            score = evaluate_dataset(encoder, self.data, limit=EVAL_IMAGES, progress=progress)
        self.scores[name] = score
        self.screen.say(
            f"{name}: {100 * score.score:.1f} % {score.metric} on {score.num_images:,} held-out images"
        )

    def _export(self) -> ExportedModel:
        from kdx.cli.export import parity_table
        from kdx.export.exported import export_checkpoint
        from kdx.export.samples import read_parity_samples
        from kdx.models.checkpoint import open_checkpoint

        run, out = self.out / "distilled", self.out / "exported"
        self.screen.command("Export the student", f"kdx export {run} --data {self.data} --out {out}")
        samples = read_parity_samples(self.data, PARITY_IMAGES)
        with show_progress("export") as progress:
            exported = export_checkpoint(
                open_checkpoint(run), out, format="onnx", samples=samples, progress=progress
            )
        for line in parity_table(exported.parity()).splitlines():
            self.screen.say(line)
        return exported

    def _build_repository(self) -> None:
        from kdx.serve.repository import write_repository

        exported, repository = self.out / "exported", self.out / "repository"
        self.screen.command("Write the Triton repository", f"kdx serve build {exported} --out {repository}")
        write_repository(exported, repository)

    def _query(self, client: TritonClient, exported: ExportedModel) -> None:
        """Asks the server and compares its answers with the exported model's in this process."""
        from kdx.bench import ClassifyExample, SearchExample
        from kdx.evaluate import classify
        from kdx.runtime.onnx import OnnxEncoder
        from kdx.serve.search import ExactSearch

        samples = _good_samples(self.data, SEARCHED_IMAGES)
        shown = [samples[row * len(samples) // EXAMPLES] for row in range(min(EXAMPLES, len(samples)))]
        images = [sample.image for sample in samples[:COMPARED]]
        texts = [sample.captions[0] for sample in samples[:COMPARED]]
        labels, templates = _labels(self.data, shown)
        url = "grpc://localhost:8001"
        place = _write_example(self.out, shown[0].image)
        quoted = json.dumps(shown[0].captions[0], ensure_ascii=False)
        self.screen.command("Embed a text", f"kdx query text {url} {quoted}")
        self.screen.command("Embed an image", f"kdx query image {url} {place}")
        with OnnxEncoder(exported) as here:
            differences = {
                "image": _largest(client.embed_images(images) - here.embed_images(images)),
                "text": _largest(client.embed_texts(texts) - here.embed_texts(texts)),
            }
            options = " ".join(
                f"--label {json.dumps(label, ensure_ascii=False)}" for label in labels[:EXAMPLES]
            )
            self.screen.command("Classify an image", f"kdx query classify {url} {place} {options}")
            pictures = [sample.image for sample in shown]
            served = client.classify(pictures, labels, templates=templates)
            local = classify(here, pictures, labels, templates=templates)
            differences["classification"] = max(
                (0.0 if there[0] == here_[0] else 1.0) + abs(there[1] - here_[1])
                for best, own in zip(served, local, strict=True)
                for there, here_ in zip(best[:1], own[:1], strict=True)
            )
        _check_equal(differences)
        self.screen.say(
            "served and in-process answers differ by at most "
            + ", ".join(f"{value:.1g} ({what})" for what, value in differences.items())
        )
        self.classifications = [
            ClassifyExample(sample.image, best, _truth(sample, labels, templates))
            for sample, best in zip(shown, served, strict=True)
        ]
        self.screen.command("Find images by text", f"kdx query search {url} {quoted} {self.data}")
        by_name = {sample.key: sample.image for sample in samples}
        with show_progress("embedding images") as progress:
            index = ExactSearch(client, by_name, progress=progress)
        for query in dict.fromkeys(sample.captions[0] for sample in shown):
            hits = index.find(query, 8)
            self.searches.append(
                SearchExample(query, [by_name[name] for name, _ in hits], [cosine for _, cosine in hits])
            )

    def _measure(self, client: TritonClient) -> dict[str, dict[str, dict[str, float]]]:
        import kdx
        from kdx.bench import measure_latency

        images = [sample.image for sample in _good_samples(self.data, 64)]
        names = {
            "torch": self.out / "distilled",
            "onnx": self.out / "exported",
            "teacher": self.out / "teacher",
        }
        self.screen.command(
            "Measure latency",
            f"kdx bench latency {' '.join(map(str, names.values()))} grpc://localhost:8001 --data {self.data}",
        )
        encoders = {name: kdx.load(path) for name, path in names.items()} | {"triton": client}
        with show_progress("latency") as progress:
            return measure_latency(
                {name: encoder.embed_images for name, encoder in encoders.items()},
                images,
                seconds=BENCH_SECONDS,
                progress=progress,
            )

    def _report(
        self,
        exported: ExportedModel,
        latency: dict[str, dict[str, dict[str, float]]],
        triton: dict[str, str],
    ) -> dict[str, Any]:
        from kdx.core.provenance import collect_provenance
        from kdx.distill.recipe import read_recipe
        from kdx.models.architectures import count_parameters

        self.screen.command("Write the page again", f"kdx bench report {self.out}")
        student, teacher = read_recipe("demo-baseline").student, read_recipe("demo-teacher").student
        torch_ms = {
            "teacher": latency.pop("teacher"),
            "baseline": latency["torch"],
            "distilled": latency["torch"],
        }
        scores = self.scores
        return {
            "title": "kdx demo",
            "summary": _summary(scores),
            "setting": self.setting
            | {
                "steps": f"{read_recipe('demo-teacher').steps} (teacher), {read_recipe('demo-baseline').steps} "
                "(students)",
                "objective of CLIP-KD": "task + CRD + ICL + FD with the published weights",
            },
            "accuracy": {
                "metric": scores["teacher"].metric,
                "protocol": _protocol(scores["teacher"]),
                **{run: score.score for run, score in scores.items()},
                "intervals": {run: _interval(score) for run, score in scores.items()},
            },
            "models": {
                run: {
                    "architecture": teacher if run == "teacher" else student,
                    "parameters": count_parameters(teacher if run == "teacher" else student).total_params,
                    "latency_ms": torch_ms[run]["1"]["p50"],
                }
                for run in scores
            },
            "parity": exported.parity(),
            "latency_ms": latency,
            "triton": triton,
            "seconds": {name: round(seconds, 2) for name, seconds in self.screen.seconds.items()},
            "commands": [{"title": title, "command": text} for title, text in self.screen.commands],
            "provenance": collect_provenance(
                inputs={"student": exported.spec.model_digest}, seeds={"data": SEED, "recipe": SEED}
            ),
        }

    def _write_report(self, report: dict[str, Any]) -> None:
        from kdx.bench import write_report
        from kdx.core.log import read_metrics

        curves = {
            run: [(line["step"], line["task"]) for line in read_metrics(self.out / run / "metrics.jsonl")]
            for run in self.scores
        }
        write_report(
            report, self.out, curves=curves, searches=self.searches, classifications=self.classifications
        )


def _fitting_batch(recipe: str, pairs: int) -> tuple[str, ...]:
    """Settings for a set that is smaller than the recipe's batch."""
    from kdx.distill.recipe import read_recipe

    return () if pairs >= read_recipe(recipe).batch_size else (f"batch_size={pairs}",)


def _good_samples(folder: Path, count: int) -> list[Any]:
    """At most `count` evenly spaced samples of the val split whose image decodes."""
    from kdx.core.errors import DataError
    from kdx.core.preprocess import decode_image
    from kdx.data.shards import open_split

    samples = open_split(folder, "val")
    count = min(count, len(samples))
    good: list[Any] = []
    for row in range(count):
        sample = samples[row * len(samples) // count]
        try:
            decode_image(sample.image)
        except DataError:
            continue
        good.append(sample)
    return good


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
    import io

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


def _summary(scores: dict[str, Evaluation]) -> str:
    baseline, distilled = scores["baseline"].score, scores["distilled"].score
    return (
        f"The same student, pairs and steps: {100 * baseline:.1f} % alone, {100 * distilled:.1f} % with CLIP-KD "
        f"({100 * (distilled - baseline):+.1f} points). Then exported, served and queried."
    )


def _protocol(score: Evaluation) -> str:
    part = score.zero_shot or score.retrieval
    assert part is not None  # evaluate_dataset raises otherwise
    return part.protocol


def _interval(score: Evaluation) -> tuple[float, float]:
    if score.zero_shot:
        return score.zero_shot.top1.interval
    assert score.retrieval is not None
    lower, upper = zip(
        score.retrieval.image_to_text[1].interval, score.retrieval.text_to_image[1].interval, strict=True
    )
    return sum(lower) / 2, sum(upper) / 2
