"""int8: from the two ONNX graphs in fp32 to two that compute in whole numbers, with scales fixed beforehand.

Static scales, also for texts: dynamic ones are taken over a batch, so that a caption's embedding would depend on its
neighbours. What calibrating does stands in quantization_search.py, its child process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError, UsageError
from kdx.core.prompts import prompt_texts
from kdx.core.provenance import cpu_count
from kdx.core.scratch import scratch_folder
from kdx.core.tokenizers import Tokenizer

from .calibration import check_enough
from .child import Child, ChildCrash
from .samples import ParitySamples

TARGETS = ("cpu", "trt")
TIMEOUT = 4 * 3600.0
HELD_BACK = 3  # every third image and text is kept to judge by what the others calibrated
MAX_CHOICES = 1000

# Bytes of address space beside the images: the libraries, activations, and copies of the weights. Without a limit
# ViT-T/16 and its text tower (162 MB) took 2.4 GB, EfficientNet-B0 with the same 3.4 GB, of which 0.6 were the images.
BASE_MEMORY = 4 * 2**30
MEMORY_PER_WEIGHT = 8
# A thread reserves a stack and an arena of malloc, used or not: with 16 of them a session of ONNX Runtime
# took 1 GiB more address space than with 2, and no more memory.
MEMORY_PER_CORE = 128 * 2**20


def quantize_towers(
    source: Path,
    out: Path,
    *,
    spec: EncoderSpec,
    tokenizer: Tokenizer,
    calibration: ParitySamples,
    target: str,
) -> dict[str, Any]:
    """Writes image_encoder.onnx and text_encoder.onnx of `source`, which are fp32, into the folder `out` as int8.

    target: "cpu" for ONNX Runtime and OpenVINO, "trt" for TensorRT's parsers; neither runs the other's file well.
    Takes minutes. Returns by tower what was chosen and measured: the calibration method and the three that were
    compared, the layers left in float, and for cpu the speed beside fp32 on this machine.

    Raises UsageError for a target that there is not and for a tower above 2 GB, DataError for too little calibration
    data or images without contrast, SetupError if time or memory do not suffice.
    """
    if target not in TARGETS:
        raise UsageError(f"int8 has no target {target!r}", remedy=f"it has {', '.join(TARGETS)}")
    check_enough(calibration)
    files = [source / f"{tower}_encoder.onnx" for tower in ("image", "text")]
    for file in files:
        _check_one_file(file)
    with scratch_folder() as folder:
        pixels_bytes = _write_pixels(folder, spec, calibration)
        choices, templates = _write_texts(folder, spec, tokenizer, calibration)
        weights = max(file.stat().st_size for file in files)
        job = {
            "source": str(source.resolve()),
            "out": str(folder),
            "data": str(folder),
            "target": target,
            "choices": choices,
            "templates": templates,
            "memory": BASE_MEMORY
            + MEMORY_PER_CORE * cpu_count()
            + MEMORY_PER_WEIGHT * weights
            + pixels_bytes,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        answer = folder / "answer.json"
        try:
            with Child(
                "kdx.export.quantization_search",
                [folder / "job.json", answer],
                doing="quantise the model",
                lighter="export in fp16",
            ) as child:
                child.wait(TIMEOUT)
        except ChildCrash as crash:
            raise UsageError(
                f"{spec.name} cannot be quantised: onnxruntime.quantization was killed by {crash}",
                remedy="free memory, or export in fp32 or fp16",
            ) from None
        for file in files:
            _finish(folder / file.name, file, out / file.name)
        return json.loads(answer.read_text(encoding="utf-8"))


def slower_towers(options: dict[str, Any]) -> list[str]:
    """A sentence for each tower that is no faster than in fp32 on the machine that built it."""
    return [
        f"the {tower} encoder in int8 is no faster than in fp32 on this machine ({record['speedup_batch1']:.2f} ×)"
        for tower, record in options.get("int8", {}).items()
        if record.get("speedup_batch1", np.inf) <= 1.0
    ]


def _check_one_file(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UsageError(
            "a tower above 2 GB is not quantised",
            where=path.name,
            remedy="export in fp16, or quantise a smaller model",
        )


def _write_pixels(folder: Path, spec: EncoderSpec, calibration: ParitySamples) -> int:
    """train_pixels.npy and held_pixels.npy, float32 [N, 3, S, S]; returns their bytes."""
    preprocess, images = spec.preprocess(), calibration.images
    parts = {
        "train": [image for row, image in enumerate(images) if row % HELD_BACK],
        "held": [image for row, image in enumerate(images) if not row % HELD_BACK],
    }
    spread = 0.0
    for split, chosen in parts.items():
        shape = (len(chosen), 3, spec.image_size, spec.image_size)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with (folder / f"{split}_pixels.npy").open("wb") as file:  # mapped, a full disk would be a SIGBUS
            np.lib.format.write_array_header_1_0(file, header)
            for image in chosen:
                pixels = preprocess(image)
                file.write(pixels.astype("<f4", copy=False).tobytes())
                spread = max(spread, float(np.ptp(pixels.reshape(3, -1), axis=1).max()))
    if spread == 0:
        raise DataError(
            f"each of the {len(images)} calibration images is of one colour",
            remedy="give a set of real images",
        )
    return sum((folder / f"{split}_pixels.npy").stat().st_size for split in parts)


def _write_texts(
    folder: Path, spec: EncoderSpec, tokenizer: Tokenizer, calibration: ParitySamples
) -> tuple[int, int]:
    """texts.npz; returns how many of the held-back texts, the last ones, are choices, and the templates of each."""
    texts = list(dict.fromkeys(calibration.texts))
    held = texts[::HELD_BACK]
    train = [text for row, text in enumerate(texts) if row % HELD_BACK]
    if calibration.classes:
        templates = len(calibration.templates)
        classes = calibration.classes[: max(1, MAX_CHOICES // templates)]
        choices = prompt_texts(classes, calibration.templates)
    else:
        templates, choices = 0, held
        held = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, chosen in (("train", train), ("held", [*held, *choices])):
        arrays[split], arrays[f"{split}_lengths"] = _tokenize(chosen, spec, tokenizer)
    np.savez(folder / "texts.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return len(choices), templates


def _tokenize(
    texts: Sequence[str], spec: EncoderSpec, tokenizer: Tokenizer
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    ids = [tokenizer.encode(text, spec.context_length) for text in texts]
    return spec.pad(ids), np.array([max(len(row), spec.min_length) for row in ids])


def _finish(quantized: Path, source: Path, out: Path) -> None:
    """The graph without the quantiser's notes and with the provenance that the fp32 one carries."""
    from .onnx import strip_metadata

    model = onnx.load(quantized)
    strip_metadata(model)
    model.doc_string = ""
    properties = {
        entry.key: entry.value for entry in onnx.load(source, load_external_data=False).metadata_props
    }
    onnx.helper.set_model_props(model, properties)
    out.write_bytes(model.SerializeToString(deterministic=True))
