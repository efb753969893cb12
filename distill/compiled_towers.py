"""torch.compile of the student's towers: on a GPU fewer and larger kernels, for a minute or so at the start."""

from __future__ import annotations

from kdx.models.clip import ClipModel

TEXT_LENGTHS = (16, 24, 32, 48, 64)  # and the whole context


def compile_towers(model: ClipModel, *, masks_patches: bool, backend: str = "inductor") -> None:
    """Compiles both towers in place; their parameters keep their names.

    masks_patches: MFD exchanges a module of the image tower at each step, so that tower is left as it is.
    """
    model.text_transformer.compile(backend=backend)
    if not masks_patches:
        model.visual.compile(backend=backend)


def allowed_lengths(context_length: int) -> tuple[int, ...]:
    """The lengths to which texts are padded.

    They must be few: after eight shapes of a compiled function torch silently runs it as it is (its recompile limit).
    """
    return (*(each for each in TEXT_LENGTHS if each < context_length), context_length)
