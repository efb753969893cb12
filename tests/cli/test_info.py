"""Facts of `kdx info`: every folder of kdx says what it is, and one that is not whole says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdx.cli import main
from kdx.cli.info import KINDS
from kdx.data.shards import Sample, write_shards


def _info(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as stopped:
        main(["info", str(folder), "--json"])
    assert isinstance(stopped.value.code, int)
    out = capsys.readouterr().out
    return stopped.value.code, json.loads(out) if out else {}


def test_every_kind_that_kdx_seals_is_known() -> None:
    from kdx.bench import matryoshka, methods
    from kdx.distill import teacher_cache
    from kdx.models import checkpoint
    from kdx.models.foreign import sources
    from kdx.runtime import deferred, exported_model
    from kdx.serve import repository

    modules = (checkpoint, exported_model, deferred, repository, teacher_cache, methods, matryoshka)
    sealed = {module.KIND for module in modules}
    assert sealed | {checkpoint.RUN_KIND, sources.SEALED_FOR_OTHERS} | {"demo", "set"} == set(KINDS)


def test_a_checkpoint(mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdx.models.checkpoint import open_checkpoint

    code, told = _info(mini_checkpoint, capsys)
    assert code == 0
    assert (told["kind"], told["architecture"], told["whole"]) == ("checkpoint", "kdx-mini", True)
    state = open_checkpoint(mini_checkpoint).model.state_dict()
    assert told["weights"] == sum(tensor.numel() for tensor in state.values())
    assert told["by"] and told["made"] and str(mini_checkpoint) in told["next"][0]


def test_the_widths_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdx.models.architectures import build_model, read_architecture
    from kdx.models.checkpoint import save_checkpoint
    from kdx.models.clip_vocabulary import clip_tokenizer

    architecture = read_architecture("kdx-mini")
    model = build_model(architecture, 0)
    save_checkpoint(tmp_path / "several", model, architecture, clip_tokenizer(), matryoshka_dims=(8, 16, 64))
    code, told = _info(tmp_path / "several", capsys)
    assert code == 0 and "first 8 or 16 are an embedding" in told["dimensions"]
    assert told["embeddings"].endswith("texts of up to 32 tokens")


def test_a_checkpoint_whose_texts_have_one_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdx.models.architectures import build_model, read_architecture
    from kdx.models.checkpoint import save_checkpoint
    from kdx.models.clip_vocabulary import clip_tokenizer

    described = read_architecture("kdx-mini")
    text = described.text_cfg.changed(no_causal_mask=True, pool_type="last")
    architecture = described.changed(custom_text=True, text_cfg=text)
    save_checkpoint(tmp_path / "padded", build_model(architecture, 0), architecture, clip_tokenizer())
    assert _info(tmp_path / "padded", capsys)[1]["embeddings"].endswith("texts of 32 tokens")


def test_an_exported_model_and_its_repository(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdx.serve.repository import write_repository

    code, told = _info(exported_model, capsys)
    assert code == 0 and told["kind"] == "exported-model"
    assert (told["format"], told["precision"], told["target"]) == ("onnx", "fp32", "cpu")
    assert (
        told["parity"]["verdict"] in ("PASS", "INCONCLUSIVE") and told["parity"]["largest difference"] < 1e-3
    )
    code, served = _info(write_repository(exported_model, tmp_path / "repository"), capsys)
    assert code == 0 and served["kind"] == "triton-repository"
    assert served["parity"] == told["parity"] and set(served["models"]) >= {"embed_image", "embed_text"}


def test_a_run_tells_its_manifest_and_its_last_numbers(
    mini_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdx.core.folders import sealed_folder

    fields = {"methods": ["crd", "fd"], "seconds": 12.5, "device": "cpu"}
    with sealed_folder(tmp_path / "run", "run", fields=fields, inputs={"data": "ab" * 32}) as folder:
        shutil.copytree(mini_checkpoint, folder / "student")
        (folder / "metrics.jsonl").write_text(
            '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.5, "lr": 0.1}\n'
        )
        (folder / "skipped.jsonl").write_text('{"key": "a", "why": "x"}\n')
    code, told = _info(tmp_path / "run", capsys)
    assert code == 0
    assert told["final"] == {"step": 2, "loss": 2.5} and told["bad images"] == 1
    assert told.items() >= {"architecture": "kdx-mini", "from": {"data": "ab" * 32}, **fields}.items()


def test_a_set(tmp_path: Path, make_samples: Any, capsys: pytest.CaptureFixture[str]) -> None:
    samples: list[Sample] = make_samples(5)
    write_shards(tmp_path, "train", samples)
    code, told = _info(tmp_path, capsys)
    assert (code, told["kind"], told["train"]["samples"]) == (0, "set", 5)


def test_a_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kdx-demo.json").write_text('{"created": "2026-01-01T00:00:00+00:00", "data": null}')
    assert _info(tmp_path, capsys)[1]["whole"] is False  # interrupted: no report yet
    accuracy = {"metric": "zero_shot_top1", "teacher": 0.5, "baseline": 0.3, "distilled": 0.4}
    (tmp_path / "report.json").write_text(json.dumps({"accuracy": accuracy, "seconds": {"data": 2.0}}))
    code, told = _info(tmp_path, capsys)
    assert (code, told["kind"], told["seconds"]) == (0, "demo", 2.0)
    assert told["scores"] == {"teacher": 0.5, "baseline": 0.3, "distilled": 0.4}


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_folder_that_is_not_whole_still_says_what_it_is(
    damage: str, mini_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mini_checkpoint, tmp_path / "copy")
    weights = tmp_path / "copy/model.safetensors"
    weights.unlink() if damage == "missing" else weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    code, told = _info(tmp_path / "copy", capsys)
    assert (code, told["architecture"], told["whole"], told["next"]) == (4, "kdx-mini", False, [])


def test_a_changed_file_is_found_whatever_its_size(
    mini_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdx.core.folders.LARGE", 0)  # every file counts as a large one
    shutil.copytree(mini_checkpoint, tmp_path / "copy")
    weights = tmp_path / "copy/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    code, told = _info(tmp_path / "copy", capsys)
    assert (code, told["whole"]) == (4, False)


def test_the_text_is_about_ten_lines(mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", str(mini_checkpoint)])
    lines = capsys.readouterr().out.splitlines()
    assert 8 <= len(lines) <= 13
    assert [line.split()[0] for line in lines[:3]] == ["folder", "what", "architecture"]


@pytest.mark.parametrize("name", ["", "missing"])
def test_what_is_not_of_kdx_is_bad_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _info(tmp_path / name, capsys) == (4, {})
