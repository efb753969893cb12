"""What a plain `pip install kdx` leaves out, and the extra that brings it.

The plain installation asks servers, runs them and evaluates them. Models in PyTorch (training, export, checkpoints)
need the packages of the extra `train`; Parquet and Arrow files that of `parquet`, shards at a URL that of `remote`,
text towers of Hugging Face's that of `hf`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from .errors import SetupError

TRAIN = frozenset(  # import names
    {
        "huggingface_hub",
        "onnx",
        "onnxscript",
        "open_clip",
        "safetensors",
        "simplejpeg",
        "timm",
        "tomli_w",
        "torch",
        "torchvision",
    }
)
PARQUET = frozenset({"pyarrow"})
REMOTE = frozenset({"fsspec"})
HF = frozenset({"transformers"})
INSTALL_TRAIN = "pip install 'kdx[train,cpu]' (with an NVIDIA GPU: 'kdx[train,gpu]')"


@contextmanager
def naming_the_extra() -> Generator[None]:
    """Raises SetupError, with the command that installs it, where the block misses a package of an extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        for extra, packages in (("parquet", PARQUET), ("remote", REMOTE), ("hf", HF)):
            if error.name in packages:
                raise SetupError(
                    f"this needs kdx[{extra}]: the package {error.name} is not installed",
                    remedy=f"pip install 'kdx[{extra}]'",
                ) from None
        if error.name not in TRAIN:
            raise
        raise SetupError(
            f"this needs kdx[train]: the package {error.name} is not installed", remedy=INSTALL_TRAIN
        ) from None
