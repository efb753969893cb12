"""Facts of distill/teacher_cache.py: a cache is taken only for the samples, views and teacher that it was made of."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kdx.core.encoder import IntArray
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import read_manifest, sealed_folder
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import ViewConfig
from kdx.distill import teacher_cache
from kdx.distill.teacher_cache import Teacher, TeacherCache, fingerprint, identity, open_cache
from kdx.distill.teacher_cache.storage import Pixels

from .fake_teacher import FakeTeacher

MakeSamples = Callable[..., list[Sample]]
VIEWS = ViewConfig(num_views=2)
CLASSES = ("cat", "dog", "fish")


class _Teacher(FakeTeacher):
    """Embeds an image by its mean and a text by its tokens, on a circle."""

    def __init__(self) -> None:
        super().__init__(embed_dim=2)

    def embed_pixels(self, pixels: Pixels) -> torch.Tensor:
        return _on_circle(pixels.mean(axis=(1, 2, 3)) / 128)

    def embed_tokens(self, tokens: IntArray) -> torch.Tensor:
        return _on_circle(tokens.sum(axis=1).astype(float))


def _on_circle(angles: npt.NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1)).float()


@pytest.fixture
def data(tmp_path: Path, make_samples: MakeSamples) -> Path:
    """Twelve samples of three classes in two shards."""
    write_shards(tmp_path / "data", "train", make_samples(12), samples_per_shard=8)
    (tmp_path / "data" / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path / "data"


def _open(data: Path, teacher: Teacher | None = None, *, views: ViewConfig = VIEWS) -> TeacherCache:
    samples = open_split(data, "train", min_good_share=0)
    return open_cache(data.parent / "cache", teacher or _Teacher(), samples, views, max_bad_share=0.5)


def _reseal(cache: Path, file: str, table: dict[str, np.ndarray]) -> None:
    """The cache with another content of one file, whole by its manifest."""
    fields = read_manifest(cache).fields
    kept = {path.name: load_file(path) for path in cache.glob("*.safetensors")}
    with sealed_folder(cache, teacher_cache.KIND, overwrite=True, fields=fields) as folder:
        for name, content in {**kept, file: table}.items():
            save_file(content, folder / name)


def test_a_class_less_makes_other_rows_of_the_same_shards_and_the_cache_is_refused(data: Path) -> None:
    assert not _open(data).reused
    assert _open(data).reused
    (data / "classes.txt").write_text("\n".join(CLASSES[:2]))
    assert len(open_split(data, "train", min_good_share=0)) == 8
    with pytest.raises(UsageError) as error:
        _open(data)
    assert error.value.where == str(data.parent / "cache")


def test_a_class_renamed_is_another_set_and_the_same_pairs(data: Path) -> None:
    before = open_split(data, "train")
    (data / "classes.txt").write_text("\n".join(("lion", *CLASSES[1:])))
    after = open_split(data, "train")
    assert before.digest != after.digest and before.pairs_digest == after.pairs_digest


@pytest.mark.parametrize("change", ["reversed", "fewer", "other"])
def test_the_keys_in_a_cache_are_compared_whenever_it_is_opened(data: Path, change: str) -> None:
    _open(data)
    cache, name = data.parent / "cache", "train-00001.safetensors"
    table = load_file(cache / name)
    if change == "fewer":
        table = {part: content[:-1].copy() for part, content in table.items()}
    else:
        table["key"] = table["key"][::-1].copy() if change == "reversed" else table["key"] + np.uint64(1)
    _reseal(cache, name, table)
    with pytest.raises(DataError) as error:
        _open(data)
    assert error.value.where == str(cache / name)


def test_a_cache_of_another_number_of_views_is_no_cache_of_this_run(data: Path) -> None:
    _open(data)
    cache, name = data.parent / "cache", "train-00001.safetensors"
    table = load_file(cache / name)
    table["image"] = table["image"][:, :1].copy()
    _reseal(cache, name, table)
    with pytest.raises(DataError) as error:
        _open(data)
    assert error.value.where == str(cache / name)


def test_a_fingerprint_is_of_what_this_kdx_does_with_images_texts_and_views(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = open_split(data, "train")

    def of(teacher: _Teacher, views: ViewConfig = VIEWS, samples: ShardSet = samples) -> str:
        return fingerprint(teacher, samples, views)

    lying, squashing, deaf = _Teacher(), _Teacher(), _Teacher()
    lying.spec = dataclasses.replace(lying.spec, preprocess_digest="1" * 64, tokenizer_digest="1" * 64)
    squashing.preprocess = dataclasses.replace(squashing.preprocess, resize_mode="squash")
    deaf.tokenizer = type("", (), {"digest": "2" * 64})()  # type: ignore[assignment]
    whole = of(_Teacher())
    assert of(lying) == whole
    assert (
        of(_Teacher(), VIEWS.model_copy(update={"decode": "scaled"})) == whole
    )  # how the student alone sees them
    assert len({whole, of(squashing), of(deaf), of(_Teacher(), ViewConfig(num_views=2, seed=1))}) == 4
    monkeypatch.setattr(identity, "VIEW_RULES", "crops are drawn by dice")
    assert of(_Teacher()) != whole


def test_an_image_that_did_not_decode_when_the_cache_was_made_has_no_embedding(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    broken = Sample("broken", make_samples(1)[0].image[:60], ("x",), None)
    write_shards(tmp_path / "data", "train", [*make_samples(3), broken])
    cache = _open(tmp_path / "data")
    zeros = np.zeros(2, dtype=np.int64)
    cache.embeddings(np.array([0, 2]), zeros, zeros, torch.device("cpu"))
    with pytest.raises(DataError):
        cache.embeddings(np.array([0, 3]), zeros, zeros, torch.device("cpu"))


def test_a_cache_that_lost_a_file_is_not_whole(data: Path) -> None:
    _open(data)
    (data.parent / "cache" / "train-00001.safetensors").unlink()
    with pytest.raises(DataError) as error:
        _open(data)
    assert error.value.where == str(data.parent / "cache" / "train-00001.safetensors")
    shutil.rmtree(data.parent / "cache")
    assert not _open(data).reused
