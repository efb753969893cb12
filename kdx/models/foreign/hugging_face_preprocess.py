"""How images are prepared, as the files of a Hugging Face folder say it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError
from kdx.core.folders import read_json

from .preprocessing import read_preprocess

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
HARMLESS = {  # keys of an image processor that change no pixel of an RGB image
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "use_fast", "device"),
    *("do_convert_rgb", "default_to_square", "data_format", "input_data_format", "return_tensors"),
    *("disable_grouping", "model_input_names", "_valid_processor_keys"),
}


def read_image_processor(
    folder: Path, image_size: int, usual: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What the folder's files say of preprocessing, as `preprocess_cfg`; nothing where they say nothing.

    usual: the defaults of the processor's class where they are not CLIP's, which also stand for a missing file.
    transformers 4 writes preprocessor_config.json, transformers 5 processor_config.json with the same table inside.
    Raises DataError where kdx cannot prepare images in the way that one says, or where they differ.
    """
    found: dict[str, Any] = {}
    usual = usual or {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        config: Any = read_json(path) if path.is_file() else {}
        if name == "processor_config.json":
            config = config.get("image_processor")
        if not config:
            continue
        if not isinstance(config, dict):
            raise DataError("its image processor is no table", where=path, remedy="get the file again")
        given = _image_processor(usual | config, image_size, path)
        if found and given != found:
            raise DataError(
                "prepares images otherwise than preprocessor_config.json does",
                where=path,
                remedy="remove the file that does not belong to the weights",
            )
        found = given
    return found or (_image_processor(usual, image_size, folder) if usual else {})


def _image_processor(config: dict[str, Any], image_size: int, path: Path) -> dict[str, Any]:
    """An image processor's table as `preprocess_cfg`: each key that changes pixels is obeyed or refused by name."""
    size, crop = config.get("size") or image_size, config.get("crop_size") or image_size
    squashed = _is_square(size, image_size) or (size == image_size and bool(config.get("default_to_square")))
    factor, resample = config.get("rescale_factor", 1 / 255), config.get("resample", 3)
    fits = {  # key → whether kdx prepares images so
        "do_resize": config.get("do_resize", True) is True,
        "size": squashed or size in (image_size, {"shortest_edge": image_size}),
        "do_center_crop": squashed or config.get("do_center_crop", True) is True,
        "crop_size": config.get("do_center_crop") is False
        or crop == image_size
        or _is_square(crop, image_size),
        "resample": isinstance(resample, int) and resample in INTERPOLATIONS,
        "do_rescale": config.get("do_rescale", True) is True,
        "rescale_factor": isinstance(factor, int | float) and math.isclose(factor, 1 / 255, rel_tol=1e-6),
        "do_normalize": isinstance(config.get("do_normalize", True), bool),
    }
    known = fits.keys() | HARMLESS | {"image_mean", "image_std"}
    fits |= {key: value in (None, False) for key, value in config.items() if key not in known}
    if wrong := [f"{key} = {config.get(key)!r}" for key, fit in fits.items() if not fit]:
        raise DataError(
            f"prepares images in a way that kdx does not: {', '.join(wrong)} for images of {image_size} pixels",
            where=path,
            remedy="remove the file to take what is usual for this kind of model",
        )
    normalised = config.get("do_normalize", True)
    given = {
        "mean": config.get("image_mean") if normalised else [0.0, 0.0, 0.0],
        "std": config.get("image_std") if normalised else [1.0, 1.0, 1.0],
        "interpolation": INTERPOLATIONS[resample],
        "resize_mode": "squash" if squashed else "shortest",
    }
    return read_preprocess(given, path)


def _is_square(size: Any, side: int) -> bool:
    return size == {"height": side, "width": side}
