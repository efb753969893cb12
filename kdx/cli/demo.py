"""`kdx demo`: the main job from images to answers, as a sequence of the ordinary commands' calls."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdx.cli.demo_data import SEED, choose_pairs, draw_set
from kdx.cli.demo_query import ask
from kdx.cli.demo_report import Results, write_demo_report
from kdx.cli.demo_screen import Screen, Stage
from kdx.cli.progress import show_progress

if TYPE_CHECKING:
    from kdx.evaluate import Evaluation
    from kdx.runtime.exported_model import ExportedModel
    from kdx.runtime.triton import TritonEmbedder

MARKER = "kdx-demo.json"  # says that a folder is a demo's, so that a later one may replace it

MOST_EPOCHS = (
    50  # of the demo's own recipes, whose steps are fixed; fewer pairs than that get the recipes for few
)
EVAL_IMAGES = 2_000
PARITY_IMAGES = 1_000
BENCH_SECONDS = 10.0


@click.command(name="demo")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with your own train and val (or test) shards, taken as they are. Default: a set of shapes is drawn.",
)
@click.option(
    "--teacher",
    type=click.Path(path_type=Path),
    help="Checkpoint or run to learn from, such as `kdx import` writes. Default: a small one is trained.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("kdx-demo"),
    show_default=True,
    help="Folder for all that is made.",
)
@click.option("--overwrite", is_flag=True, help="Start afresh if OUT holds an earlier demo: it is removed.")
def command(data: Path | None, teacher: Path | None, out: Path, overwrite: bool) -> None:
    """Show the whole chain at work: data, teacher, distillation, export, Triton, queries, report.

    Without --data it draws pictures of shapes and gives 30 % of them the caption of another picture, since text
    from the web is as noisy. Your own pairs are never changed. Without --teacher it first trains a small teacher.

    Each stage prints the command that does the same by itself. It takes about five minutes on two cores, without a
    GPU, and needs Triton: kdx serve install.

    \b
    Example: kdx demo
    On your own data: kdx demo --data my-shards --teacher my-teacher --out my-demo
    """
    from kdx.models.checkpoint import read_checkpoint_architecture
    from kdx.serve.environment import find_triton

    find_triton()  # before minutes of training
    if teacher is not None:
        read_checkpoint_architecture(teacher)  # is one
    screen = Screen(_stages(own_data=data is not None, own_teacher=teacher is not None))
    _clear(out, {"--data": data, "--teacher": teacher}, overwrite, screen)
    demo = _Demo(
        out,
        data or out / "shapes",
        teacher or out / "teacher",
        own_data=data is not None,
        own_teacher=teacher is not None,
        screen=screen,
    )
    screen.end(out, demo.run())


def _stages(*, own_data: bool, own_teacher: bool) -> list[Stage]:
    """The stages to come; how long training takes is known for what the demo brings itself."""
    known = not (own_data or own_teacher)
    teacher = Stage("teacher", "a small CLIP, trained on all pairs", 130 if known else None)
    return [
        Stage("data", "your images and captions", 1)
        if own_data
        else Stage("data", "images with captions, some of them wrong", 16),
        *([] if own_teacher else [teacher]),
        Stage("distil", "the student alone, and taught by the teacher (CLIP-KD)", 110 if known else None),
        Stage("export", "to ONNX, compared with PyTorch", 12),
        Stage("serve", "a Triton server with the student", 3),
        Stage("query", "embeddings, classes and search", 3),
        Stage("bench", "latency, and the report", 20),
    ]


def _clear(out: Path, given: dict[str, Path | None], overwrite: bool, screen: Screen) -> None:
    """An empty folder with the marker at `out`. Nothing of an earlier demo is ever reused. given: by option."""
    from kdx.core.errors import UsageError
    from kdx.core.folders import check_place, write_atomic
    from kdx.core.urls import shown

    check_place(out)
    for option, place in given.items():
        if place is not None and place.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"{option} lies inside --out", where=place, remedy="choose another --out")
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
    inputs = {option.removeprefix("--"): place and shown(place) for option, place in given.items()}
    write_atomic(out / MARKER, json.dumps({"created": created, **inputs}) + "\n")


@dataclass
class _Demo:
    """The stages in their order, and what later ones need of earlier ones.

    own_data, own_teacher: they are the user's; else the demo makes them. steps: of the runs that were trained here.
    """

    out: Path
    data: Path
    teacher: Path
    own_data: bool
    own_teacher: bool
    screen: Screen
    steps: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def models(self) -> dict[str, Path]:
        """The three that are compared."""
        return {
            "teacher": self.teacher,
            "baseline": self.out / "baseline",
            "distilled": self.out / "distilled",
        }

    def run(self) -> dict[str, Any]:
        """All stages. Returns what report.json says. The server is stopped whatever happens."""
        from kdx.runtime.triton import TritonEmbedder
        from kdx.serve.supervisor import TritonServer

        with self.screen.stage("data"):
            if not self.own_data:
                draw_set(self.data, self.screen)
            pairs = choose_pairs(
                self.data, self.out, own_data=self.own_data, own_teacher=self.own_teacher, screen=self.screen
            )
        if pairs.teacher is not None:
            with self.screen.stage("teacher"):
                self._train("teacher", "demo-teacher", pairs.teacher)
                self._evaluate("teacher")
        with self.screen.stage("distil"):
            if self.own_teacher:
                self._evaluate("teacher")
            self._train("baseline", "demo-baseline", pairs.student)
            self._evaluate("baseline")
            self._train("distilled", "demo-clip-kd", pairs.student, taught=True)
            self._evaluate("distilled")
            gain = 100 * (self.scores["distilled"].score - self.scores["baseline"].score)
            self.screen.say(f"CLIP-KD: {gain:+.1f} points for the same student, pairs and steps")
        with self.screen.stage("export"):
            exported = self._export()
        with contextlib.ExitStack() as running:
            with self.screen.stage("serve"):
                self._build_repository()
                repository = self.out / "repository"
                self.screen.command("Serve it", f"kdx serve up {repository}")
                server = running.enter_context(TritonServer(repository, self.out / "triton.log"))
                self.screen.say(f"ready at {server.url}: each model has answered a real inference")
            client = running.enter_context(TritonEmbedder(server.url))
            with self.screen.stage("query"):
                answers = ask(client, exported, self.data, self.out, self.screen)
            with self.screen.stage("bench"):
                latency = self._measure(client)
                triton = {"version": client.connection.server_version(), "source": server.source}
        results = Results(
            pairs.setting, self.models, self.steps, self.scores, exported, answers, latency, triton, SEED
        )
        return write_demo_report(self.out, results, self.screen)

    def _train(self, name: str, recipe: str, data: Path, *, taught: bool = False) -> None:
        from kdx.data.shards import open_split
        from kdx.distill import read_recipe, run_recipe

        run = self.models[name]
        recipe, settings = self._recipe_for(recipe, len(open_split(data, "train")), taught)
        options = [f"--data {data}", *(f"--set {setting}" for setting in settings)]
        if taught:
            options.append(f"--teacher {self.teacher}")
        self.screen.command(
            f"Train the {name} model", f"kdx distill {recipe} {' '.join(options)} --out {run}"
        )
        result = run_recipe(
            read_recipe(recipe, settings),
            data,
            run,
            teachers=[self.teacher] if taught else [],
            stages=show_progress,
            tell=self.screen.say,
        )
        if result.bad_images:
            self.screen.say(f"skipped {result.bad_images} images that do not decode: {run / 'skipped.jsonl'}")
        self.steps[name] = result.steps

    def _recipe_for(self, name: str, pairs: int, taught: bool) -> tuple[str, tuple[str, ...]]:
        """The recipe `name`, or that for few pairs with the same student, and settings that fit the teacher."""
        from kdx.distill import read_recipe
        from kdx.models.checkpoint import read_checkpoint_architecture

        recipe = read_recipe(name)
        schedule = recipe.schedule(pairs)
        settings: tuple[str, ...] = ()
        if schedule is None or schedule.steps * schedule.batch_size > MOST_EPOCHS * pairs:
            name = "small-clip-kd" if taught else "small-baseline"
            settings = (f"student={recipe.student}",)
        if taught and (settings or self.own_teacher):
            width = read_checkpoint_architecture(self.teacher).embed_dim
            settings += (f"objective.fd={2000 / width:g}",)  # CLIP-KD's, 2000 on the mean over features
        return name, settings

    def _evaluate(self, name: str) -> None:
        import kdx
        from kdx.evaluate import evaluate_dataset

        model = self.models[name]
        self.screen.command(
            f"Evaluate the {name} model", f"kdx eval {model} --data {self.data} --limit {EVAL_IMAGES}"
        )
        with kdx.load(model) as encoder, show_progress("evaluation") as progress:
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
        self.screen.command(
            "Export the student", f"kdx export {run} --data {self.data} --out {out} --allow-inconclusive"
        )
        samples = read_parity_samples(self.data, PARITY_IMAGES)
        with show_progress("export") as progress:
            exported = export_checkpoint(
                open_checkpoint(run),
                out,
                format="onnx",
                samples=samples,
                allow_inconclusive=True,  # on a few photos of the user's; the demo says the verdict
                progress=progress,
            )
        for line in parity_table(exported.parity()).splitlines():
            self.screen.say(line)
        return exported

    def _build_repository(self) -> None:
        from kdx.serve.repository import write_repository

        exported, repository = self.out / "exported", self.out / "repository"
        self.screen.command("Write the Triton repository", f"kdx serve build {exported} --out {repository}")
        write_repository(exported, repository)

    def _measure(self, client: TritonEmbedder) -> dict[str, dict[str, dict[str, float]]]:
        import kdx
        from kdx.bench import measure_latency
        from kdx.data.sampling import readable_samples
        from kdx.data.shards import open_split

        images = [sample.image for sample in readable_samples(open_split(self.data, "val"), 64)]
        names = {
            "torch": self.out / "distilled",
            "onnx": self.out / "exported",
            "teacher": self.teacher,
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
