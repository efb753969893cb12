"""Facts of serve/repository.py that need no server: what is written, and from what."""

import json
import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2  # pyright: ignore[reportMissingTypeStubs]

import kdx
from kdx.core.digests import file_digest
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError, GateError, UsageError
from kdx.core.folders import open_sealed, read_json, sealed_folder
from kdx.runtime.exported_model import KIND as EXPORTED, open_exported_model
from kdx.runtime.triton_requests import IMAGE_BATCH, TEXT_BATCH
from kdx.serve.repository import KIND, open_repository, write_repository

ROOT = Path(kdx.__file__).parent


@pytest.fixture(scope="module")
def repository(exported_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(exported_model, tmp_path_factory.mktemp("repository") / "repository")


def test_it_is_sealed_with_the_digest_of_its_model(repository: Path, exported_model: Path) -> None:
    manifest = open_sealed(repository, KIND)
    assert manifest.provenance["inputs"] == {"exported-model": file_digest(exported_model / "manifest.json")}
    assert open_repository(repository) == manifest


def test_the_exported_model_lies_in_it_whole(repository: Path, exported_model: Path) -> None:
    assert open_exported_model(repository / "exported-model").spec == open_exported_model(exported_model).spec


def test_it_tells_no_path_of_the_machine_that_wrote_it(
    exported_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["kdx", "serve", "build", str(exported_model), f"--out={tmp_path}/repository"]
    )
    repository = write_repository(exported_model, tmp_path / "repository")
    for file in repository.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert str(exported_model.parent).encode() not in content and str(tmp_path).encode() not in content
    assert "exported" in open_sealed(repository, KIND).provenance["command"]


def test_it_says_what_its_code_needs_where_triton_is_there_already(repository: Path) -> None:
    packages = [line.split("==")[0] for line in (repository / "requirements.txt").read_text().splitlines()]
    assert {"numpy", "onnxruntime", "pillow", "tokenizers"} <= set(packages)
    assert "nvidia-pytriton" not in packages


def test_each_model_is_an_entry_to_the_copied_code(repository: Path) -> None:
    code = repository / "python" / "kdx"
    for model in ("embed_image", "embed_text", "zero_shot"):
        entry = (repository / "models" / model / "1" / "model.py").read_text()
        assert f"from kdx.serve.triton_models.{model} import TritonPythonModel" in entry
        compile(entry, model, "exec")
        assert (code / "serve" / "triton_models" / f"{model}.py").is_file()
    copied = [file.relative_to(code) for file in code.rglob("*") if file.is_file()]
    assert all((code / file).read_bytes() == (ROOT / file).read_bytes() for file in copied)
    assert {file.parts[0] for file in copied} == {"__init__.py", "core", "runtime", "serve"}
    assert Path("runtime/torch.py") not in copied


def test_configurations_carry_the_models_numbers_exactly(repository: Path) -> None:
    spec = open_exported_model(repository / "exported-model").spec
    configs = {}
    for file in repository.glob("models/*/config.pbtxt"):
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())  # pyright: ignore[reportAttributeAccessIssue]
        configs[config.name] = config
    image, text, zero_shot = (configs[name] for name in ("embed_image", "embed_text", "zero_shot"))
    assert (image.max_batch_size, text.max_batch_size) == (IMAGE_BATCH, TEXT_BATCH)
    assert zero_shot.max_batch_size == 0
    assert [list(config.output[0].dims) for config in (image, text)] == [[spec.embed_dim]] * 2
    assert EncoderSpec.from_dict(json.loads(image.parameters["spec"].string_value)) == spec
    assert float(zero_shot.parameters["logit_scale"].string_value) == spec.logit_scale
    optional = {tensor.name: tensor.optional for tensor in zero_shot.input}
    assert optional == {"image": False, "labels": False, "templates": True, "top_k": True}
    assert [config.instance_group[0].count for config in (image, text, zero_shot)] == [2, 2, 4]
    for config in (image, text, zero_shot):
        assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
        assert config.dynamic_batching.default_priority_level > 1  # so that a probe goes first


def test_a_damaged_model_gives_no_repository(exported_model: Path, tmp_path: Path) -> None:
    shutil.copytree(exported_model, tmp_path / "damaged")
    with (tmp_path / "damaged" / "image_encoder.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(DataError) as caught:
        write_repository(tmp_path / "damaged", tmp_path / "repository")
    assert caught.value.where == str(tmp_path / "damaged" / "image_encoder.onnx")
    assert not (tmp_path / "repository").exists()


def test_an_old_repository_is_replaced_only_when_asked(
    repository: Path, exported_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(repository, tmp_path / "repository")
    with pytest.raises(UsageError) as caught:
        write_repository(exported_model, tmp_path / "repository")
    assert caught.value.where == str(tmp_path / "repository") and "--overwrite" in str(caught.value.remedy)
    write_repository(exported_model, tmp_path / "repository", overwrite=True)
    with pytest.raises(UsageError) as caught:
        write_repository(exported_model, exported_model, overwrite=True)
    assert KIND in caught.value.what
    open_exported_model(exported_model)


@pytest.mark.parametrize(
    ("verdict", "allowed", "served"),
    [
        ("PASS", False, True),
        ("INCONCLUSIVE", True, True),
        ("INCONCLUSIVE", False, False),
        ("FAIL", False, False),
        ("FAIL", True, False),
    ],
)
def test_a_model_that_the_gate_left_open_is_served_by_its_makers_word_alone(
    exported_model: Path, tmp_path: Path, verdict: str, allowed: bool, served: bool
) -> None:
    model = tmp_path / "model"
    with sealed_folder(model, EXPORTED, fields={"inconclusive_allowed": allowed}) as folder:
        shutil.copytree(exported_model, folder, dirs_exist_ok=True, ignore=lambda *_: ["manifest.json"])
        report = read_json(folder / "parity.json") | {"verdict": verdict}
        (folder / "parity.json").write_text(json.dumps(report))
    if not served:
        with pytest.raises(GateError):
            write_repository(model, tmp_path / "repository")
        return
    repository = write_repository(model, tmp_path / "repository")
    assert f'"{verdict}"' in (repository / "models/embed_image/config.pbtxt").read_text()
