"""Facts of kdx/evaluate/dataset.py on small shards."""

import io
import json
import logging
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.encoder import Encoder, FloatArray
from kdx.core.errors import DataError, UsageError
from kdx.data.shards import Sample, ShardSet, write_shards
from kdx.evaluate import Proportion, evaluate_dataset

MakeImage = Callable[[str], bytes]
NAMES = ["red", "green", "blue"]


@pytest.fixture
def write_set(tmp_path: Path, make_image: MakeImage) -> Callable[..., Path]:
    """Images red, green, blue, red … with true captions; `bad`: rows whose image is damaged."""

    def write(count: int = 12, *, classes: bool = True, bad: tuple[int, ...] = ()) -> Path:
        samples = [
            Sample(
                key=f"{row:04d}",
                image=make_image(NAMES[row % 3])[: 40 if row in bad else None],
                captions=(f"a {NAMES[row % 3]} picture",),
                label=row % 3 if classes else None,
            )
            for row in range(count)
        ]
        write_shards(tmp_path, "val", samples, samples_per_shard=5)
        if classes:
            (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
        return tmp_path

    return write


def test_a_set_with_classes_is_scored_by_zero_shot(encoder: Any, write_set: Callable[..., Path]) -> None:
    evaluation = evaluate_dataset(encoder, write_set())
    assert (evaluation.metric, evaluation.score) == ("zero_shot_top1", 1.0)
    assert evaluation.zero_shot is not None and evaluation.zero_shot.top1 == Proportion(12, 12)
    assert evaluation.retrieval is not None  # each colour occurs four times, so the first of them is found
    assert evaluation.retrieval.image_to_text[1] == Proportion(3, 12)
    assert encoder.images_embedded == 12


def test_captions_that_are_cut_are_counted_once_for_all_pieces(
    encoder: Any,
    write_set: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("kdx.evaluate.embedding.TEXTS_A_PIECE", 1)
    encoder.spec = replace(encoder.spec, context_length=10)  # "picture" is spelled in letters
    evaluate_dataset(encoder, write_set(3, classes=False))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["3 of 3 texts were longer than the 10 tokens that colours reads, and were cut"]


def test_a_set_without_classes_is_scored_by_retrieval(
    encoder: Encoder, write_set: Callable[..., Path]
) -> None:
    evaluation = evaluate_dataset(encoder, write_set(3, classes=False))
    assert evaluation.zero_shot is None
    assert (evaluation.metric, evaluation.score) == ("retrieval_recall@1", 1.0)


def test_a_set_without_captions_is_scored_by_its_labels_alone(
    encoder: Encoder, tmp_path: Path, make_image: MakeImage
) -> None:
    with tarfile.open(tmp_path / "val-0.tar", "w") as tar:
        for row, name in enumerate(NAMES):
            for extension, content in (("png", make_image(name)), ("cls", str(row).encode())):
                member = tarfile.TarInfo(f"{row}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    evaluation = evaluate_dataset(encoder, tmp_path)
    assert evaluation.retrieval is None and evaluation.zero_shot is not None
    assert evaluation.zero_shot.top1 == Proportion(3, 3) and evaluation.score == 1.0


def test_classes_of_one_name_tie_and_the_first_counts(
    encoder: Encoder, write_set: Callable[..., Path]
) -> None:
    folder = write_set(12)
    (folder / "classes.txt").write_text("red\ngreen\nred\n")
    evaluation = evaluate_dataset(encoder, folder)
    assert evaluation.zero_shot is not None
    assert evaluation.zero_shot.top1 == Proportion(
        8, 12
    )  # blue images lie in the second "red", found by none


def test_the_sets_own_templates_are_used(encoder: Encoder, write_set: Callable[..., Path]) -> None:
    folder = write_set()
    (folder / "templates.txt").write_text("{}\na {}\n")
    evaluation = evaluate_dataset(encoder, folder)
    assert evaluation.zero_shot is not None
    assert evaluation.zero_shot.protocol == "12 images, 3 classes, 2 templates"


def test_a_damaged_image_is_named_counted_and_left_out(
    encoder: Encoder, write_set: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="kdx"):
        evaluation = evaluate_dataset(encoder, write_set(24, bad=(7,)))
    assert (evaluation.num_images, evaluation.bad_images) == (23, 1)
    assert evaluation.zero_shot is not None and evaluation.zero_shot.top1 == Proportion(23, 23)
    assert "left out sample 0007" in caplog.text


def test_a_whole_batch_of_damaged_images_is_left_out(
    encoder: Encoder, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdx.core.ahead.EMBED_BATCH", 2)
    evaluation = evaluate_dataset(encoder, write_set(24, bad=(0, 1)))
    assert (evaluation.num_images, evaluation.bad_images) == (22, 2)


def test_too_many_damaged_images_are_refused(encoder: Encoder, write_set: Callable[..., Path]) -> None:
    folder = write_set(bad=(1, 2))
    with pytest.raises(DataError) as raised:
        evaluate_dataset(encoder, folder)
    assert raised.value.where == str(folder) and "12 images" in raised.value.what and raised.value.remedy


def test_a_fault_of_the_encoder_is_not_blamed_on_the_images(
    encoder: Encoder, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pixels: FloatArray) -> FloatArray:
        raise DataError("does not run", where="image_encoder.onnx")

    monkeypatch.setattr(encoder, "encode_image", fail)
    with pytest.raises(DataError) as raised:
        evaluate_dataset(encoder, write_set())
    assert raised.value.where == "image_encoder.onnx"


def test_a_limit_takes_samples_evenly(encoder: Any, write_set: Callable[..., Path]) -> None:
    evaluation = evaluate_dataset(encoder, write_set(12), limit=4)
    assert evaluation.num_images == encoder.images_embedded == 4
    assert evaluation.retrieval is not None  # rows 0, 3, 6, 9 are all red
    assert evaluation.retrieval.image_to_text[1] == Proportion(1, 4)


def test_of_rows_that_are_not_chosen_nothing_is_read(
    encoder: Any, write_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a million rows only columns of the index are looked at."""
    encoder.identity, read, find = "colours", set[int](), ShardSet._find
    monkeypatch.setattr(ShardSet, "_find", lambda samples, row: (read.add(row), find(samples, row))[1])
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    for module in (
        "core.ahead",
        "evaluate.embedding",
    ):  # several pieces, which are kept under a name of all rows
        monkeypatch.setattr(f"kdx.{module}.EMBED_BATCH", 2)
    assert evaluate_dataset(encoder, write_set(12), limit=4).num_images == 4
    assert read == {0, 3, 6, 9}


def test_a_limit_that_is_too_large_takes_all(encoder: Encoder, write_set: Callable[..., Path]) -> None:
    assert evaluate_dataset(encoder, write_set(3), limit=100).num_images == 3


def test_a_limit_below_one_is_refused(encoder: Encoder, write_set: Callable[..., Path]) -> None:
    with pytest.raises(UsageError):
        evaluate_dataset(encoder, write_set(3), limit=0)


def test_progress_reaches_the_total(
    encoder: Encoder, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdx.core.ahead.EMBED_BATCH", 5)
    seen: list[tuple[int, int, str]] = []
    evaluate_dataset(
        encoder, write_set(12), progress=lambda done, total, note="": seen.append((done, total, note))
    )
    assert seen == [(5, 12, ""), (10, 12, ""), (12, 12, ""), (3, 3, "classes"), (3, 3, "captions")]


def test_to_dict_is_json_with_intervals(encoder: Encoder, write_set: Callable[..., Path]) -> None:
    document = json.loads(json.dumps(evaluate_dataset(encoder, write_set()).to_dict()))
    assert document["metric"] == "zero_shot_top1" and document["score"] == 1.0
    assert document["zero_shot"]["top1"]["hits"] == 12
    assert document["retrieval"]["protocol"] == "12 images × 12 captions"
    assert set(document["retrieval"]["text_to_image"]) >= {"recall@1", "recall@5", "recall@10", "median_rank"}


def test_nothing_slow_is_imported_before_it_is_used() -> None:
    modules = "kdx.evaluate, kdx.cli, kdx.runtime.triton, kdx.serve.search"
    script = f"import sys, {modules}; print([name for name in ('torch', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_embeddings_keep_the_order_of_the_samples(
    encoder: Encoder, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdx.core.ahead.EMBED_BATCH", 5)
    evaluation = evaluate_dataset(encoder, write_set(11, bad=(4,)))
    assert evaluation.zero_shot is not None
    np.testing.assert_equal(evaluation.zero_shot.top1, Proportion(10, 10))


def _write_bare(folder: Path, image: bytes, *, cls: bool) -> None:
    """Twelve images without captions."""
    with tarfile.open(folder / "val-0.tar", "w") as archive:
        for row in range(12):
            for extension, content in (("jpg", image), ("cls", b"%d" % (row % 3))):
                if extension == "jpg" or cls:
                    header = tarfile.TarInfo(f"{row:04d}.{extension}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))


def test_a_set_without_captions_is_evaluated_by_its_classes(
    tmp_path: Path, make_image: MakeImage, encoder: Encoder
) -> None:
    _write_bare(tmp_path, make_image("red"), cls=True)
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    evaluation = evaluate_dataset(encoder, tmp_path)
    assert evaluation.zero_shot is not None and evaluation.zero_shot.top1.value == pytest.approx(1 / 3)
    assert evaluation.retrieval is None and evaluation.skipped_samples == 0


def test_a_set_with_nothing_to_compare_is_refused_before_an_image_is_embedded(
    tmp_path: Path, make_image: MakeImage, encoder: Any
) -> None:
    _write_bare(tmp_path, make_image("red"), cls=False)
    with pytest.raises(DataError) as error:
        evaluate_dataset(encoder, tmp_path)
    assert error.value.where == str(tmp_path) and encoder.images_embedded == 0


def test_a_model_of_several_widths_is_scored_at_each_from_one_pass(
    encoder: Any, write_set: Callable[..., Path]
) -> None:
    """Of red, green and blue, the first dimension tells red from the others, the first two all but nothing more."""
    folder = write_set()
    plain = evaluate_dataset(encoder, folder)
    assert plain.at_widths == () and "at_widths" not in plain.to_dict()
    seen, read = encoder.images_embedded, encoder.texts_embedded
    encoder.spec = replace(encoder.spec, matryoshka_dims=(1, 2, 4))
    evaluation = evaluate_dataset(encoder, folder)
    assert encoder.images_embedded - seen == 12 and encoder.texts_embedded - read == read
    assert (evaluation.zero_shot, evaluation.retrieval) == (plain.zero_shot, plain.retrieval)
    scores = {each.dimensions: each for each in evaluation.at_widths}
    assert list(scores) == [1, 2, 4]
    assert (scores[4].zero_shot, scores[4].retrieval) == (plain.zero_shot, plain.retrieval)
    assert scores[1].zero_shot is not None and scores[1].zero_shot.top1.value < 1
    rows = evaluation.to_dict()["at_widths"]
    assert [row["dimensions"] for row in rows] == [1, 2, 4]
    assert rows[2]["top1"]["value"] == 1 and rows[2]["mean_recall@1"] == plain.retrieval.mean_recall[1]  # type: ignore[union-attr]
