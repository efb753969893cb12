"""report.json: what it must say, and the pictures and curves that the page shows beside it.

Keys beyond these are kept in report.json and not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Base64UrlBytes,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from kdx.core.errors import DataError

SCHEMA = 1

Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Cosine = Annotated[float, Field(ge=-1.001, le=1.001, allow_inf_nan=False)]  # rounding may exceed 1
Run = Literal["teacher", "baseline", "distilled"]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A JSON object whose named keys are checked."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Accuracy(Table):
    """Scores as fractions. metric: such as zero_shot_top1. protocol: what they were taken on.

    intervals: lower and upper 95 % bound by the name of the score.
    """

    metric: str
    teacher: Fraction
    baseline: Fraction
    distilled: Fraction
    protocol: str = ""
    intervals: dict[Run, tuple[Fraction, Fraction]] = {}


class Side(Table):
    """How far an exported encoder is from the checkpoint.

    needed_tolerance: the smallest tolerance on the elements of unit vectors that lets it pass.
    """

    max_abs: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    min_cosine: Cosine
    needed_tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Parity(Table):
    """top1_agreement: share of images for which both give the same class."""

    image: Side
    text: Side
    top1_agreement: Fraction
    verdict: str = ""


class Percentiles(Table):
    """Milliseconds for the whole batch."""

    p50: Milliseconds
    p95: Milliseconds
    p99: Milliseconds
    num_samples: Count

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.p50 <= self.p95 <= self.p99:
            raise ValueError("p50 ≤ p95 ≤ p99 does not hold")
        return self


class Triton(Table):
    """version: of the server. source: where its binary came from."""

    version: str
    source: str


class Model(Table):
    """latency_ms: p50 at batch 1 in one and the same runtime, where it was measured for all models."""

    architecture: str
    parameters: Count
    latency_ms: Milliseconds | None = None


class Command(Table):
    """A step and the shell command that repeats it."""

    title: str
    command: str


class Report(Table):
    """report.json.

    setting: what the experiment was, such as {"training pairs": "4,000"}. models: by teacher, baseline and
    distilled. seconds: of each stage, in order.
    """

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    created: str = ""
    title: str = "kdx report"
    summary: str = ""
    accuracy: Accuracy
    models: dict[Run, Model] = {}
    setting: dict[str, str | int | float] = {}
    parity: Parity
    latency_ms: dict[str, dict[str, Percentiles]]
    triton: Triton
    seconds: Annotated[dict[str, Seconds], Field(min_length=1)]
    commands: list[Command] = []
    provenance: Annotated[dict[str, Any], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for runtime in ("torch", "onnx", "triton"):
            for batch in ("1", "8"):
                if batch not in self.latency_ms.get(runtime, {}):
                    raise ValueError(f"latency_ms.{runtime}.{batch} is missing")
        if any(not batch.isdecimal() for batches in self.latency_ms.values() for batch in batches):
            raise ValueError("the keys below latency_ms.RUNTIME must be batch sizes")
        if self.models and len(self.models) < 3:
            raise ValueError("models must name teacher, baseline and distilled")
        return self


@dataclass(frozen=True)
class SearchExample:
    """What a text query found: encoded images, best first, and their cosines with the query."""

    query: str
    images: list[Base64UrlBytes]
    scores: list[Finite]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.scores):
            raise DataError(
                f"query {self.query!r} has {len(self.images)} images and {len(self.scores)} scores",
                remedy="give one score an image",
            )


@dataclass(frozen=True)
class ClassifyExample:
    """An encoded image, its best classes with probabilities (best first), and its true class if known."""

    image: Base64UrlBytes
    top: list[tuple[str, Fraction]]
    truth: str | None


@dataclass(frozen=True)
class ReportData:
    """report-data.json: what the page shows beside report.json. curves: (step, loss) by the run's name."""

    curves: dict[str, list[tuple[int, Finite]]]
    searches: list[SearchExample]
    classifications: list[ClassifyExample]

    def to_json(self) -> bytes:
        return TypeAdapter(ReportData).dump_json(self)


def check_data(content: bytes, where: Path) -> ReportData:
    """Reads report-data.json. Raises DataError naming the first key at fault."""
    try:
        return TypeAdapter(ReportData).validate_json(content)
    except ValidationError as error:
        raise _refusal(error, where) from None


def check_report(report: Mapping[str, Any], where: str | Path) -> Report:
    """Raises DataError naming the first key at fault."""
    try:
        return Report.model_validate(report)
    except ValidationError as error:
        raise _refusal(error, where) from None


def _refusal(error: ValidationError, where: str | Path) -> DataError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return DataError(
        f"{key}: {message}" if key else message,
        where=where,
        remedy="correct the report: kdx.bench.schema says what it holds",
    )
