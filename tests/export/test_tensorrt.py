"""Facts of export/tensorrt.py, deferred.py and finishing.py, on the TensorRT and CUDA of tests/fakes.

No test here runs TensorRT: the fakes show kdx's own logic. What NVIDIA's own parser and builder say of the graphs is in
tests/export/test_tensorrt_rtx.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.core.errors import DataError, GateError, InconclusiveError, SetupError, UsageError
from kdx.export.deferred import defer_export
from kdx.export.exported import export_checkpoint
from kdx.export.finishing import finish_export
from kdx.export.samples import ParitySamples
from kdx.export.tensorrt_plan import BuildPlan, Profile, default_plan
from kdx.models.checkpoint import Checkpoint, open_checkpoint
from kdx.runtime.deferred import finish, open_deferred


@pytest.fixture(scope="module")
def checkpoint(mini_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(mini_checkpoint)


@pytest.fixture(scope="module")
def deferred(
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A deferred export, made without the fakes: nothing of it needs a GPU."""
    out = tmp_path_factory.mktemp("deferred") / "mini"
    with traced_before():
        return defer_export(checkpoint, out, format="trt", samples=parity_samples).path


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_one_code_path_builds_gates_and_runs_with_both_major_versions(
    version: str,
    fake_gpu: Path,
    checkpoint: Checkpoint,
    parity_samples: ParitySamples,
    traced_before: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", version)
    with traced_before():
        exported = export_checkpoint(checkpoint, tmp_path / "trt", format="trt", samples=parity_samples)
    assert exported.parity()["verdict"] == "PASS"
    assert exported.options["version"] == version and exported.options["gpu"] == "Fake GPU"
    assert exported.options["cleared_flags"] == ["TF32"]
    assert exported.options["messages"]["image_encoder"] == ["WARNING: a warning of the builder"]
    assert sorted(file.name for file in exported.path.iterdir()) == [
        "clip_vocabulary.json",
        "config.json",
        "image_encoder.engine",
        "manifest.json",
        "parity.json",
        "text_encoder.engine",
    ]


def test_a_timing_cache_is_kept_by_version_and_gpu(fake_gpu: Path, deferred: Path, tmp_path: Path) -> None:
    finish(deferred, tmp_path)
    (kept,) = (fake_gpu / "timings").iterdir()
    assert kept.name == "tensorrt-11.4.0.106-Fake-GPU"
    assert kept.read_bytes() == b"Fake GPU\npixels\ntokens"  # the second tower went on with the first one's


def test_a_timing_cache_of_another_gpu_is_left_for_a_new_one(
    fake_gpu: Path, deferred: Path, tmp_path: Path
) -> None:
    kept = fake_gpu / "timings/tensorrt-11.4.0.106-Fake-GPU"
    kept.parent.mkdir()
    kept.write_bytes(b"Another GPU\npixels")
    finish(deferred, tmp_path)
    assert kept.read_bytes() == b"Fake GPU\npixels\ntokens"


def test_a_deferred_export_finishes_without_torch(
    fake_gpu: Path, deferred: Path, mini_checkpoint: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnxscript', 'open_clip', 'timm', 'torchvision', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from kdx.runtime.deferred import finish\n"
        "print(finish(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, deferred, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with kdx.load(done.stdout.strip()) as engine, kdx.load(mini_checkpoint) as torch:
        for texts in (["a star."], ["a photo of a red star " * 4, "a"]):
            assert np.abs(engine.embed_texts(texts) - torch.embed_texts(texts)).max() < 1e-5


def test_a_second_start_finds_the_engines_and_another_gpu_or_version_builds_anew(
    fake_gpu: Path, deferred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finish(deferred, tmp_path)
    made = (first / "manifest.json").stat().st_mtime_ns
    assert finish(deferred, tmp_path) == first
    assert (first / "manifest.json").stat().st_mtime_ns == made
    monkeypatch.setattr("kdx.export.finishing._finish", lambda *_, **__: None)
    with monkeypatch.context() as other:
        other.setattr("cuda.bindings.runtime.GPU.name", b"Fake GPU Ti")
        assert finish(deferred, tmp_path) != first
    with monkeypatch.context() as other:
        other.setattr("tensorrt.__version__", "11.5.0.1")
        assert finish(deferred, tmp_path) != first
    monkeypatch.setattr("kdx.__version__", "99")  # which may build and judge otherwise
    assert finish(deferred, tmp_path) != first


def test_engines_that_changed_or_are_not_known_are_built_anew(
    fake_gpu: Path, deferred: Path, tmp_path: Path
) -> None:
    place = finish(deferred, tmp_path)
    engine = place / "image_encoder.engine"
    engine.write_bytes(engine.read_bytes() + b" ")
    assert finish(deferred, tmp_path) == place and not engine.read_bytes().endswith(b" ")
    (fake_gpu / "trusted-plans").write_text("")
    assert finish(deferred, tmp_path) == place
    assert len((fake_gpu / "trusted-plans").read_text().split()) == 2


def test_engines_that_are_another_model_do_not_pass_and_nothing_is_kept(
    fake_gpu: Path, deferred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdx.export import gate_inputs

    load = gate_inputs.GateInputs.load

    def other_answers(path: Path) -> gate_inputs.GateInputs:
        inputs = load(path)
        return replace(inputs, expected={name: -answer for name, answer in inputs.expected.items()})

    monkeypatch.setattr(gate_inputs.GateInputs, "load", other_answers)
    with pytest.raises(GateError):
        finish(deferred, tmp_path)
    assert [path.suffix for path in (tmp_path / "engines").iterdir()] == [".lock"]


def test_a_deferred_export_says_how_it_is_finished_when_it_is_opened_as_a_model(deferred: Path) -> None:
    with pytest.raises(UsageError) as caught:
        kdx.load(deferred)
    assert f"kdx export --finish {deferred}" in str(caught.value.remedy)


def test_the_graphs_of_a_deferred_export_were_read_by_nvidias_parser(deferred: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    assert "parsed" in open_deferred(deferred).manifest.fields["proved_by"]


def test_without_tensorrt_the_format_says_what_is_missing_and_offers_to_defer(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(SetupError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", format="trt", samples=parity_samples)
    assert "tensorrt" in caught.value.what and "--defer" in str(caught.value.remedy)


def test_without_tensorrt_what_was_deferred_is_not_to_be_deferred_again(
    deferred: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(SetupError) as caught:
        finish_export(deferred, tmp_path / "out")
    assert "tensorrt" in caught.value.what and "--defer" not in str(caught.value.remedy)


def test_tensorrt_before_10_12_is_refused(fake_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdx.runtime.tensorrt import import_tensorrt

    monkeypatch.setenv("FAKE_TENSORRT", "10.11.0.33")
    with pytest.raises(SetupError) as caught:
        import_tensorrt("trt")
    assert "10.11.0.33" in caught.value.what and "10.12" in caught.value.what


def test_only_formats_of_the_running_machine_are_deferred(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        defer_export(checkpoint, tmp_path / "out", format="onnx", samples=parity_samples)


def test_samples_that_no_gate_could_pass_on_are_not_deferred(
    checkpoint: Checkpoint, parity_samples: ParitySamples, tmp_path: Path
) -> None:
    few = replace(parity_samples, images=parity_samples.images[:4], texts=parity_samples.texts[:4])
    with pytest.raises(InconclusiveError):
        defer_export(checkpoint, tmp_path / "out", format="trt", samples=few)


def test_a_graph_that_tensorrt_does_not_take_is_named_with_its_node(
    fake_gpu: Path, deferred: Path, tmp_path: Path
) -> None:
    import onnx
    import tensorrt  # pyright: ignore[reportMissingImports]

    from kdx.export.tensorrt import build_engine

    model = onnx.load(deferred / "image_encoder.onnx")
    model.graph.node[0].domain = "com.example"
    onnx.save(model, tmp_path / "image_encoder.onnx")
    plan = default_plan(open_deferred(deferred).spec)
    with pytest.raises(UsageError) as caught:
        build_engine(tensorrt, tmp_path / "image_encoder.onnx", plan.image, plan, b"")
    assert model.graph.node[0].name in caught.value.what


# Profiles


PIXELS = (-1, 3, 32, 32)


def _image(least: int, usual: int, largest: int, name: str = "pixels", size: int = 32) -> Profile:
    return Profile(name, *((batch, 3, size, size) for batch in (least, usual, largest)))


def test_profiles_cover_every_batch_and_length_without_a_gap(checkpoint: Checkpoint) -> None:
    plan = default_plan(replace(checkpoint.spec, context_length=77))
    assert [(p.least, p.usual, p.largest) for p in plan.text] == [
        ((1, 2), (8, 12), (64, 16)),
        ((1, 17), (8, 32), (64, 77)),
    ]
    assert [(p.least[0], p.usual[0], p.largest[0]) for p in plan.image] == [(1, 8, 64)]
    assert len(default_plan(replace(checkpoint.spec, context_length=16)).text) == 1


@pytest.mark.parametrize("length", [16, 64])
def test_texts_that_are_always_as_long_have_one_profile(checkpoint: Checkpoint, length: int) -> None:
    (text,) = default_plan(replace(checkpoint.spec, context_length=length, text_padding="full")).text
    assert (text.least, text.usual, text.largest) == ((1, length), (8, length), (64, length))


@pytest.mark.parametrize(
    "profile",
    [
        _image(1, 8, 64, name="image"),  # TensorRT takes an unknown name without a word
        _image(8, 4, 64),  # and shapes out of order
        _image(1, 65, 64),
        _image(0, 8, 64),
        _image(1, 8, 64, size=31),  # of an axis that is fixed
    ],
)
def test_a_profile_that_does_not_fit_is_refused_by_kdx(profile: Profile) -> None:
    assert profile.fault("pixels", PIXELS)
    assert not _image(1, 8, 64).fault("pixels", PIXELS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hardware_compatibility", "ANY"),
        ("cleared_flags", ["VERSION_COMPATIBLE"]),
        ("workspace", 0),
        ("image", []),
        ("text", [{"tensor": "tokens"}]),
    ],
)
def test_a_plan_from_elsewhere_is_checked(key: str, value: object, checkpoint: Checkpoint) -> None:
    plan = default_plan(checkpoint.spec)
    fields = json.loads(json.dumps(plan.to_dict()))
    assert BuildPlan.from_dict(fields, Path("config.json")) == plan
    with pytest.raises(DataError):
        BuildPlan.from_dict({**fields, key: value}, Path("config.json"))
