"""How a TensorRT engine is to be built: profiles and settings, as plain data that a deferred export carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError
from kdx.runtime.exported_encoder import PIXELS, TOKENS

Shape = tuple[int, ...]

# least, usual and largest batch: a lone request, what Triton gathers under load, and kdx's own batches. The memory of
# activations follows the largest: 64 images of Swin-T take 709 MB in fp32 (TensorRT-RTX 1.7)
BATCHES = (1, 8, 64)
SHORT_TEXT = 16  # tokens: most prompts and captions; a second profile has the rest of the context
USUAL_SHORT, USUAL_LONG = 12, 32
WORKSPACE = 4 * 2**30  # bytes of scratch memory that a kernel may ask for
COMPATIBILITY = ("NONE", "SAME_COMPUTE_CAPABILITY")


@dataclass(frozen=True)
class Profile:
    """The shapes of one input that an engine is optimised for: least, usual, largest."""

    tensor: str
    least: Shape
    usual: Shape
    largest: Shape

    def fault(self, tensor: str, shape: Shape) -> str:
        """Why it does not fit an input of this name and shape, -1 for a free axis; empty if it does.

        TensorRT itself takes an unknown name and a least above the largest without a word.
        """
        if self.tensor != tensor:
            return f"is for {self.tensor}, the graph's input is {tensor}"
        for axis, size in enumerate(shape):
            ordered = 1 <= self.least[axis] <= self.usual[axis] <= self.largest[axis]
            fixed = self.least[axis] == self.largest[axis] == size
            if not (ordered if size < 0 else fixed):
                return f"has {self.least}, {self.usual}, {self.largest} for {tensor} {list(shape)}"
        return ""


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides an engine beside its graph, TensorRT's version and the GPU.

    image, text: profiles in order, the narrowest first. workspace: bytes. hardware_compatibility: TensorRT's level by
    name. cleared_flags: of the builder, by name; TF32, which is on by default, would round fp32 products to 10 bits.
    auxiliary_streams: 0, so that an engine runs on its caller's stream alone and takes one set of activations.
    """

    image: tuple[Profile, ...]
    text: tuple[Profile, ...]
    workspace: int = WORKSPACE
    hardware_compatibility: str = "NONE"
    cleared_flags: tuple[str, ...] = ("TF32",)
    auxiliary_streams: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: Path) -> BuildPlan:
        """Inverse of to_dict after a round trip through JSON. Raises DataError for anything else."""
        try:
            plan = cls(
                image=_profiles(fields["image"]),
                text=_profiles(fields["text"]),
                workspace=int(fields["workspace"]),
                hardware_compatibility=str(fields["hardware_compatibility"]),
                cleared_flags=tuple(map(str, fields["cleared_flags"])),
                auxiliary_streams=int(fields["auxiliary_streams"]),
            )
            known = plan.hardware_compatibility in COMPATIBILITY and set(plan.cleared_flags) <= {"TF32"}
            if not (known and plan.image and plan.text and plan.workspace > 0 <= plan.auxiliary_streams):
                raise ValueError("a value is not one of kdx")
            return plan
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"its build plan cannot be used: {type(error).__name__}: {error}",
                where=where,
                remedy="make the deferred export again",
            ) from None


def default_plan(spec: EncoderSpec) -> BuildPlan:
    """Profiles for the batches and texts of this model."""
    pixels = (3, spec.image_size, spec.image_size)
    image = Profile(PIXELS, *((batch, *pixels) for batch in BATCHES))
    shortest, longest = spec.min_length, spec.context_length
    ranges = [(shortest, USUAL_SHORT, min(SHORT_TEXT, longest))] if shortest <= SHORT_TEXT else []
    if longest > SHORT_TEXT:
        ranges.append((max(SHORT_TEXT + 1, shortest), USUAL_LONG, longest))
    text = [
        Profile(
            TOKENS,
            (BATCHES[0], least),
            (BATCHES[1], max(least, min(usual, largest))),
            (BATCHES[2], largest),
        )
        for least, usual, largest in ranges
    ]
    return BuildPlan(image=(image,), text=tuple(text))


def _profiles(entries: Any) -> tuple[Profile, ...]:
    return tuple(
        Profile(str(entry["tensor"]), *(tuple(map(int, entry[key])) for key in ("least", "usual", "largest")))
        for entry in entries
    )
