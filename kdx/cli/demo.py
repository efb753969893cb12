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

from kdx.cli.demo_query import ask, good_samples
from kdx.cli.demo_report import Results, write_demo_report
from kdx.cli.demo_screen import Screen
from kdx.cli.progress import show_progress

if TYPE_CHECKING:
    from kdx.evaluate import Evaluation
    from kdx.runtime.exported_model import ExportedModel
    from kdx.serve.client import TritonClient

MARKER = "kdx-demo.json"  # says that a folder is a demo's, so that a later one may replace it

# The setting, fixed before any score was seen: what users have is few pairs with noisy captions, and a teacher
# that has seen more of them.
TRAIN, VAL = 12_000, 2_000
TEACHER_PAIRS, STUDENT_PAIRS = 30_000, 4_000  # at most; the student gets at most half of the set
WRONG_CAPTIONS = 0.3
SEED = 0

EVAL_IMAGES = 2_000
PARITY_IMAGES = 1_000
BENCH_SECONDS = 10.0


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
    from kdx.core.folders import check_place, write_atomic

    check_place(out)
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
        with contextlib.ExitStack() as running:
            with self.screen.stage("serve"):
                self._build_repository()
                repository = self.out / "repository"
                self.screen.command("Serve it", f"kdx serve up {repository}")
                server = running.enter_context(TritonServer(repository, self.out / "triton.log"))
                self.screen.say(f"ready at {server.url}: each model has answered a real inference")
            client = running.enter_context(TritonClient(server.url))
            with self.screen.stage("query"):
                answers = ask(client, exported, self.data, self.out, self.screen)
            with self.screen.stage("bench"):
                latency = self._measure(client)
                triton = {"version": client.connection.server_version(), "source": server.source}
        results = Results(self.setting, self.scores, exported, answers, latency, triton, SEED)
        return write_demo_report(self.out, results, self.screen)

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
        from kdx.distill import read_recipe, run_recipe
        from kdx.evaluate import evaluate_dataset

        run, data = self.out / name, self.out / pairs
        settings = _fitting_batch(recipe, len(open_split(data, "train")))
        options = [f"--data {data}", *(f"--set {setting}" for setting in settings)]
        if teacher:
            options.append(f"--teacher {self.out / teacher}")
        self.screen.command(
            f"Train the {name} model", f"kdx distill {recipe} {' '.join(options)} --out {run}"
        )
        result = run_recipe(
            read_recipe(recipe, settings),
            data,
            run,
            teachers=[self.out / teacher] if teacher else [],
            stages=show_progress,
            tell=self.screen.say,
        )
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

    def _measure(self, client: TritonClient) -> dict[str, dict[str, dict[str, float]]]:
        import kdx
        from kdx.bench import measure_latency

        images = [sample.image for sample in good_samples(self.data, 64)]
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


def _fitting_batch(recipe: str, pairs: int) -> tuple[str, ...]:
    """Settings for a set that is smaller than the recipe's batch."""
    from kdx.distill.recipe import read_recipe

    return () if pairs >= read_recipe(recipe).batch_size else (f"batch_size={pairs}",)
