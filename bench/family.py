"""A family of models as papers print it: role, network, method, accuracy over seeds, and what was published.

Accuracy is that of `kdx eval`. Latency is each encoder's alone, each network in a process of its own on one thread, in
turn (kdx/evaluate/speed.py); seeds and methods do not change it, so one run of each network is timed.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdx
from kdx.core.progress import Stages, silent_stages
from kdx.core.provenance import collect_provenance
from kdx.data.image_set import ImageSet
from kdx.evaluate import evaluate_set
from kdx.evaluate.sharing import Alone, Peers
from kdx.evaluate.speed import TEXT_LENGTH, Case, SpeedProcess, take_turns

from .family_members import BASELINE, Member, read_members
from .family_scores import KeptScores, Score, score_digests
from .page import METRICS
from .spread import percent, stdev

MIN_SAMPLES = 5  # calls that are timed of each network, however long one takes
IMAGE, TEXT = Case(1), Case(1, TEXT_LENGTH)
ALONE = Alone()

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """before: whether the score is of an earlier call."""

    member: Member
    score: Score
    before: bool


def compare_family(
    paths: Sequence[Path],
    samples: ImageSet,
    *,
    limit: int | None = None,
    seconds: float = 10.0,
    stages: Stages = silent_stages,
    peers: Peers = ALONE,
    scores: Path | None = None,
) -> dict[str, Any] | None:
    """Scores all, and puts the seeds of one method together.

    paths: runs and checkpoints. seconds: of timing, of each network. peers: the processes that share the scoring.
    scores: the file in which each score is kept as soon as it is known, and from which earlier ones are taken.

    Returns None in all but the first of `peers`; there, as JSON: `rows`, teachers first, then by network from the worst
    to the best: `role` ("teacher" of another that is given, or "student"), `network`, `method` (None of a checkpoint,
    and of a teacher that was not distilled), `teachers` (names), `score` (a fraction, the mean over `runs`), its sample
    `std` (None of one run), `interval` (95 %, of one run where it has one), `recalls` ("recall@5" and "recall@10", each
    with `mean` and `std`, where the score is recall@1), `published_top1` (ImageNet, in percent, or None) and its
    `published_source`, `image_parameters`, `parameters`, `ms` and `text_ms` (Timing.summary of one image, and of one
    text of 12 tokens), `runs` (`path`, `seed`, `score`, `scored_before`, `model_digest`); `dataset`, `protocol`,
    `metric`, `num_images`, `load_average`, `provenance`.

    Raises UsageError for a model given twice or one that is neither, DataError for a folder that is not whole, and what
    `evaluate_set` raises.
    """
    members = read_members(paths)
    scored = _score(members, samples, limit, KeptScores(scores), stages, peers)
    if peers.rank:
        return None
    times, load = _time(members, seconds, stages)
    groups: dict[str, list[Scored]] = {}
    for each in scored:
        groups.setdefault(each.member.likeness, []).append(each)
    rows = [_row(group, members, times[group[0].member.network_key]) for group in groups.values()]
    best = {
        row["network"]: max(each["score"] for each in rows if each["network"] == row["network"])
        for row in rows
    }
    rows.sort(key=lambda row: (row["role"] != "teacher", best[row["network"]], row["network"], row["score"]))
    about = scored[0].score
    return {
        "rows": rows,
        "dataset": about.dataset,
        "protocol": about.protocol,
        "metric": about.metric,
        "num_images": max(each.score.num_images for each in scored),
        "load_average": load,
        "provenance": collect_provenance(),
    }


def family_table(document: Mapping[str, Any]) -> str:
    """The document as Markdown."""
    lines = [f"| {' | '.join(header(document))} |", f"|{'---|' * len(header(document))}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in document["rows"]]
    return "\n".join([*lines, "", *about(document)]) + "\n"


def header(document: Mapping[str, Any]) -> list[str]:
    score = "top-1" if document["metric"] == "zero_shot_top1" else "recall@1"
    columns = ["Role", "Network", "Method", "Teacher", score, *document["rows"][0]["recalls"], "seeds"]
    return [*columns, "published, ImageNet", "image + text parameters", "image, ms", "text, ms", "runs"]


def cells(row: Row) -> list[str]:
    """A row of the table, as the header names them."""
    published = row["published_top1"]
    return [
        row["role"],
        row["network"],
        row["method"] or "–",
        " + ".join(row["teachers"]) or "–",
        score_text(row),
        *(percent(each["mean"], each["std"]) for each in row["recalls"].values()),
        str(len(row["runs"])),
        "–" if published is None else f"{published:.2f} %",
        f"{row['image_parameters'] / 1e6:.3g} + {(row['parameters'] - row['image_parameters']) / 1e6:.3g} M",
        f"{row['ms']['p50']:.3g}",
        f"{row['text_ms']['p50']:.3g}",
        ", ".join(each["path"] for each in row["runs"]),
    ]


def about(document: Mapping[str, Any]) -> list[str]:
    """What the numbers were taken on, and where the published ones stand; a sentence each."""
    metric = METRICS.get(document["metric"], document["metric"])
    provenance = document["provenance"]
    place = ", ".join(provenance["gpu"]) or f"one thread of {provenance['cpu']}"
    lines = [
        f"Measured: {metric} on {document['dataset']} ({document['protocol']}); ± is the standard deviation over "
        "seeds, brackets the 95 % interval of one.",
        f"Latency: p50 of one image, and of one text of {TEXT_LENGTH} tokens (or of the one length that a model "
        f"takes), through its encoder on {place}; load average {document['load_average']:.1f}.",
    ]
    sources = dict.fromkeys(row["published_source"] for row in document["rows"] if row["published_source"])
    if sources:
        lines.append(
            f"Published: zero-shot top-1 on ImageNet, in the run of the source; {'; '.join(sources)}."
        )
    return lines


def score_text(row: Row) -> str:
    """In percent; with the deviation over seeds, or the interval of one."""
    score = percent(row["score"], row["std"])
    if row["interval"] is None:
        return score
    low, high = row["interval"]
    return f"{score} ({100 * low:.1f}–{100 * high:.1f})"


def _score(
    members: Sequence[Member],
    samples: ImageSet,
    limit: int | None,
    kept: KeptScores,
    stages: Stages,
    peers: Peers,
) -> list[Scored]:
    """In the order of the members, in the first of `peers`; the others only share the work."""
    digests = score_digests([member.spec for member in members], samples, limit)
    before = kept.known_to_all(digests, peers)
    scored: list[Scored] = []
    for member, digest in zip(members, digests, strict=True):
        if digest not in before:
            with stages(f"scoring {member.path.name}") as progress, kdx.load(member.path) as embedder:
                evaluation = evaluate_set(embedder, samples, limit=limit, progress=progress, peers=peers)
            if not peers.rank:
                kept.keep(digest, Score.of(evaluation))
        if not peers.rank:
            scored.append(Scored(member, kept[digest], digest in before))
    return scored


def _time(
    members: Sequence[Member], seconds: float, stages: Stages
) -> tuple[dict[str, dict[str, Any]], float]:
    """By network the `ms` and `text_ms` of its row; the load average before."""
    networks = {member.network_key: member for member in reversed(members)}
    with ExitStack() as stack, stages("timing") as progress:
        processes = [stack.enter_context(SpeedProcess(member.path)) for member in networks.values()]
        load = os.getloadavg()[0]
        cases = {"ms": IMAGE, "text_ms": TEXT}
        timings = take_turns(
            processes, list(cases.values()), seconds=seconds, min_samples=MIN_SAMPLES, progress=progress
        )
    of_each = ({name: timing[case].summary() for name, case in cases.items()} for timing in timings)
    return dict(zip(networks, of_each, strict=True)), load


def _row(group: Sequence[Scored], members: Sequence[Member], times: dict[str, Any]) -> Row:
    first = group[0].member
    scores = [each.score.value for each in group]
    taught = [member for member in members if first.model_digest in member.teacher_digests]
    published, source = first.published(taught)
    return {
        "role": "teacher" if taught else "student",
        "network": first.network,
        "method": None if taught and first.method == BASELINE else first.method,
        "teachers": list(first.teachers),
        "score": statistics.mean(scores),
        "std": stdev(scores),
        "recalls": {
            f"recall@{k}": _recall([each.score for each in group], k) for k in group[0].score.recalls
        },
        "interval": list(interval) if (interval := group[0].score.interval) and len(group) == 1 else None,
        "published_top1": published,
        "published_source": source,
        "image_parameters": first.image_parameters,
        "parameters": first.parameters,
        **times,
        "runs": [
            {
                "path": str(each.member.path),
                "seed": each.member.seed,
                "score": each.score.value,
                "scored_before": each.before,
                "model_digest": each.member.model_digest,
            }
            for each in group
        ],
    }


def _recall(scores: Sequence[Score], k: int) -> dict[str, float | None]:
    values = [score.recalls[k] for score in scores]
    return {"mean": statistics.mean(values), "std": stdev(values)}
