"""Facts of kdx/runtime/exported_model.py: only a whole exported model of a known format opens."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import sealed_folder
from kdx.core.tokenizers import tokenizer_files
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.exported_model import KIND, open_exported_model


def _reseal(source: Path, path: Path, config: dict[str, Any]) -> Path:
    """A copy with another config.json, sealed again."""
    with sealed_folder(path, KIND) as folder:
        for file in source.iterdir():
            if file.name not in ("manifest.json", "config.json"):
                shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(config))
    return path


def test_it_names_its_files_and_what_the_model_is(exported_model: Path, mini_checkpoint: Path) -> None:
    model = open_exported_model(exported_model)
    assert model.format.name == "onnx" and model.precision == "fp32"
    assert model.spec == open_checkpoint(mini_checkpoint).spec
    for file in (model.image_encoder, model.text_encoder, *tokenizer_files(model.path)):
        assert file.is_file() and file.name in model.manifest.digest
    assert model.parity()["verdict"] in ("PASS", "INCONCLUSIVE")


@pytest.mark.parametrize(
    "name", ["image_encoder.onnx", "text_encoder.onnx", "clip_vocabulary.json", "config.json", "parity.json"]
)
def test_without_one_of_its_files_it_does_not_open(exported_model: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exported_model, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(DataError) as caught:
        open_exported_model(tmp_path / "copy")
    assert name in str(caught.value)


def test_a_config_of_another_kdx_is_refused(exported_model: Path, tmp_path: Path) -> None:
    config = json.loads((exported_model / "config.json").read_text())
    for number, (wrong, what) in enumerate(
        (
            ({**config, "format": "tensorrt"}, "tensorrt"),
            ({"spec": config["spec"]}, "'format'"),
            ({"format": "onnx"}, "'spec'"),
            ({**config, "format": "pt2", "target": "native"}, "image_encoder.pt2"),
            ({**config, "precision": "int4"}, "int4"),
            ({**config, "target": "tpu"}, "tpu"),
            ({**config, "spec": {**config["spec"], "more": 1}}, "more"),
        )
    ):
        with pytest.raises(DataError) as caught:
            open_exported_model(_reseal(exported_model, tmp_path / str(number), wrong))
        assert what in caught.value.what


def test_a_checkpoint_is_refused_with_how_to_export_it(mini_checkpoint: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_exported_model(mini_checkpoint)
    assert caught.value.remedy is not None and f"kdx export {mini_checkpoint} " in caught.value.remedy
