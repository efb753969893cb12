"""Facts of kdx/data/index/unique_keys.py: keys become unique by the rule that names each sample one after the other."""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings, strategies as st

from kdx.data.index import unique_keys
from kdx.data.index.opening import IndexedShard, mapped_index
from kdx.data.index.shard_index import IndexedSample, ShardIndexWriter, read_shard_index
from kdx.data.index.unique_keys import find_renamed
from kdx.data.sample import key_digest
from kdx.data.tar_index import TarFile

# names that prefixes may turn one key into another by
KEYS = st.sampled_from(["a", "b", "0/a", "1/a", "1/0/a", "0/0/a", "1/1/a", "2/1/a", "1/b"])
SHARDS = st.lists(st.lists(KEYS, unique=True, max_size=6), min_size=1, max_size=5)


def _index(path: Path, name: str, keys: list[str]) -> IndexedShard:
    writer = ShardIndexWriter(name, 0, 0, "", None, [IndexedSample(key) for key in keys])
    path.write_bytes(writer.encode({}))
    index = read_shard_index(path)
    return IndexedShard(TarFile(path, 0, 0), path, index.facts, index.key_digest)


def _one_by_one(names: list[str], shards: list[list[str]]) -> list[str]:
    """The rule as it is told."""
    seen: list[str] = []
    for name, keys in zip(names, shards, strict=True):
        for key in keys:
            while key in seen:
                key = f"{name.removesuffix('.tar')}/{key}"
            seen.append(key)
    return seen


def _renamed(folder: Path, names: list[str], shards: list[list[str]]) -> list[str]:
    numbered = enumerate(zip(names, shards, strict=True))
    indices = [_index(folder / str(number), name, keys) for number, (name, keys) in numbered]
    renamed = find_renamed(indices)
    found: list[str] = []
    digests: list[int] = []
    for name, index in zip(names, indices, strict=True):
        first = len(found)
        keys = map(index.columns().key, range(index.facts.samples))
        found += [renamed.key(first + n, key, name) for n, key in enumerate(keys)]
        digests += renamed.apply(index.key_digests, first).tolist()
    assert digests == [key_digest(key) for key in found]
    return found


@settings(deadline=None)  # on a busy machine one example may take long
@given(SHARDS)
def test_keys_are_those_of_the_rule(shards: list[list[str]]) -> None:
    names = [f"{number % 3}.tar" for number in range(len(shards))]  # two shards may have one name
    mapped_index.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        assert _renamed(Path(folder), names, shards) == _one_by_one(names, shards)


def test_two_sets_with_the_same_keys_are_told_apart_without_a_look_at_each_key(tmp_path: Path) -> None:
    keys = [f"{n:09d}" for n in range(500)]
    with mock.patch.object(unique_keys, "_rename_one_by_one", side_effect=AssertionError):
        found = _renamed(tmp_path, ["00000.tar", "00001.tar"], [keys, keys])
    assert found == keys + [f"00001/{key}" for key in keys]


def test_where_all_keys_differ_nothing_is_renamed(tmp_path: Path) -> None:
    renamed = find_renamed([_index(tmp_path / f"{n}", f"{n}.tar", [f"{n}/x", f"{n}/y"]) for n in range(3)])
    assert renamed.samples.dtype == np.int64 and len(renamed.samples) == 0
