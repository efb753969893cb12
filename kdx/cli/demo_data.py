"""The pairs that `kdx demo` trains on: drawn with noisy captions, or the user's as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdx.cli.demo_screen import Screen
from kdx.cli.progress import show_progress
from kdx.core.urls import shown

if TYPE_CHECKING:
    from kdx.data.shards import ShardSet

# The setting, fixed before any score was seen: what users have is few pairs with noisy captions, and a teacher
# that has seen more of them.
TRAIN, VAL = 12_000, 2_000
TEACHER_PAIRS, STUDENT_PAIRS = 30_000, 4_000  # at most
WRONG_CAPTIONS = 0.3  # of the drawn set only
SEED = 0


@dataclass(frozen=True)
class Pairs:
    """Folders with training pairs. teacher: None if it is the user's. setting: what the report says of them."""

    student: Path
    teacher: Path | None
    setting: Mapping[str, str | int | float]


def draw_set(data: Path, screen: Screen) -> None:
    """Draws the synthetic set into the folder `data`."""
    from kdx.data.synthetic import write_synthetic

    screen.command("Draw the set", f"kdx data synthetic {data} --train {TRAIN} --val {VAL}")
    with show_progress("drawing") as progress:
        write_synthetic(data, num_train=TRAIN, num_val=VAL, seed=SEED, progress=progress)


def choose_pairs(data: Path, out: Path, *, own_data: bool, own_teacher: bool, screen: Screen) -> Pairs:
    """Training pairs of the set `data`, copied into folders in `out` unless they are all of the user's.

    Only the drawn set gets wrong captions. A teacher that is trained here sees at least twice as many pairs as its
    students, as teachers have. Raises DataError if the set has no train or no val split.
    """
    from kdx.data.shards import open_split

    samples = open_split(data, "train")
    open_split(data, "val")  # a missing one is said now, not after the training
    wrong = 0.0 if own_data else WRONG_CAPTIONS
    of_teacher = None if own_teacher else min(TEACHER_PAIRS, len(samples))
    of_student = min(STUDENT_PAIRS, len(samples) if own_teacher else len(samples) // 2)
    return Pairs(
        teacher=None
        if of_teacher is None
        else _take(samples, of_teacher, out / "teacher-pairs", wrong, screen),
        student=_take(samples, of_student, out / "student-pairs", wrong, screen),
        setting={
            "data": shown(data) if own_data else "synthetic shapes, 64 × 64 pixels",
            "captions": "as they are" if own_data else f"{100 * wrong:.0f} % are those of another picture",
        }
        | ({"pairs of the teacher": of_teacher} if of_teacher else {})
        | {"pairs of the students": of_student},
    )


def _take(samples: ShardSet, count: int, folder: Path, wrong_captions: float, screen: Screen) -> Path:
    from kdx.data.subset import write_subset

    name = folder.name.replace("-", " ")
    if count == len(samples) and not wrong_captions:
        screen.say(f"{name}: all {count:,}, with the captions that they have")
        return samples.folder
    noise = f" --wrong-captions {wrong_captions}" if wrong_captions else ""
    screen.command(f"Take {name}", f"kdx data subset {samples.folder} {folder} --pairs {count}{noise}")
    wrong = write_subset(samples, folder, pairs=count, wrong_captions=wrong_captions, seed=SEED)
    screen.say(
        f"{name}: {count:,} of {len(samples):,}, "
        + (
            f"{wrong:,} of them on purpose with the caption of another picture"
            if wrong_captions
            else "with the captions that they have"
        )
    )
    return folder
