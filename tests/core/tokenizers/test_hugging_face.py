"""HuggingFaceTokenizer: cutting, its two files, and use by threads and processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kdx.core.errors import DataError, UsageError
from kdx.core.tokenizers import HuggingFaceRules, HuggingFaceTokenizer, open_tokenizer, tokenizer_files

WORDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "?": 3, "a": 4, "dog": 5, "and": 6, "cat": 7}
CLS, SEP = 1, 2


def content(post_processor: Any = True) -> bytes:
    """Words by number between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    if post_processor:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    return tokenizer.to_str().encode()


def small(**rules: Any) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(
        content(), HuggingFaceRules(**{"clean": "lower", "pad_id": 0, "vocab_size": 8, **rules})
    )


@pytest.mark.parametrize(
    ("rules", "length", "ids"),
    [
        ({}, 9, [CLS, 4, 5, 6, 4, 7, SEP]),
        ({}, 7, [CLS, 4, 5, 6, 4, 7, SEP]),
        ({}, 5, [CLS, 4, 5, 6, SEP]),
        ({"cut": "left"}, 5, [CLS, 6, 4, 7, SEP]),
        ({"zeroed": SEP}, 5, [CLS, 4, 5, 6, 0]),
        ({"clips": (5, 6, 7)}, 6, [5, 4, 5, 6, 6, 7]),
        ({"clips": (5, 6, 7)}, 10, [5, 4, 5, 6, 4, 7, 6, 0, 0, 7]),
    ],
)
def test_a_text_is_cut_between_its_start_and_end(rules: dict[str, Any], length: int, ids: list[int]) -> None:
    whole = 8 if "clips" in rules else 7
    assert small(**rules).encode_and_tell("A dog  and a CAT", length) == (ids, length < whole)


def test_without_tokens_of_its_own_around_it_a_text_keeps_all_its_room() -> None:
    bare = HuggingFaceTokenizer(content(None), HuggingFaceRules("lower", 0, 8))
    assert bare.encode("a dog and", 2) == [4, 5] and bare.start == bare.end == ()


def test_a_context_without_room_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="context_length = 2"):
        small().encode("a", 2)


def test_what_is_no_string_is_a_data_error() -> None:
    with pytest.raises(DataError, match="bytes"):
        small().encode(b"a", 9)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "rules", [{}, {"clean": "whitespace", "cut": "left", "zeroed": 2}, {"clips": (5, 6, 7)}]
)
def test_a_saved_tokenizer_opens_equal(rules: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = small(**rules)
    tokenizer.save(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert isinstance(opened, HuggingFaceTokenizer)
    assert opened.digest == tokenizer.digest and opened.vocab_size == 8
    assert opened.encode("a dog", 9) == tokenizer.encode("a dog", 9)
    assert [file.name for file in tokenizer_files(tmp_path)] == ["tokenizer.json", "tokenizer_rules.json"]
    assert {file.name for file in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_rules.json"}


def test_the_digest_knows_the_file_and_each_rule() -> None:
    changes = ({"clean": "none"}, {"pad_id": 1}, {"cut": "left"}, {"zeroed": 0}, {"clips": (5, 6, 7)})
    digests = [small(**change).digest for change in ({}, *changes)]
    other = HuggingFaceTokenizer(content() + b"\n", HuggingFaceRules("lower", 0, 8)).digest
    assert len({*digests, other}) == 7
    assert small().digest == small().digest


def test_threads_with_different_contexts_do_not_disturb_each_other() -> None:
    tokenizer = small()
    texts = [" ".join(["a dog and cat"] * (n % 5)) for n in range(200)]
    expected = {length: [tokenizer.encode(text, length) for text in texts] for length in (4, 9, 14)}
    with ThreadPoolExecutor(6) as pool:
        lengths = [4, 9, 14] * 8
        given = pool.map(lambda length: [tokenizer.encode(text, length) for text in texts], lengths)
        assert all(ids == expected[length] for length, ids in zip(lengths, given, strict=True))


def test_a_pickled_tokenizer_gives_the_same_ids() -> None:
    copy = pickle.loads(pickle.dumps(small(zeroed=2)))
    assert copy.digest == small(zeroed=2).digest and copy.encode("a dog", 9) == [CLS, 4, 5, 0]


def test_a_forked_process_uses_it_without_a_warning(tmp_path: Path) -> None:
    small().save(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from kdx.core.tokenizers import open_tokenizer\n"
        "tokenizer = open_tokenizer(Path(sys.argv[1])); tokenizer.encode('a dog', 9); child = os.fork()\n"
        "right = tokenizer.encode('a dog', 9) == [1, 4, 5, 2]\n"
        "os._exit(not right) if child == 0 else sys.exit(os.waitpid(child, 0)[1])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", None),
        ("tokenizer_rules.json", "[]"),
        ("tokenizer_rules.json", '{"kind": "hf"}'),
        ("tokenizer_rules.json", '{"clean": "lower", "pad_id": 0, "vocab_size": 8}'),
        ("tokenizer_rules.json", '{"kind": "other", "clean": "lower"}'),
        ("tokenizer_rules.json", '{"kind": "clip", "dirty": 1}'),
        ("tokenizer_rules.json", '{"kind": "hf", "clean": "lower", "pad_id": "0", "vocab_size": 8}'),
        (
            "tokenizer_rules.json",
            '{"kind": "hf", "clean": "lower", "pad_id": 0, "vocab_size": 8, "clips": 3}',
        ),
        ("tokenizer_rules.json", '{"kind": "hf", "clean": "lower", "pad_id": 0, "vocab_size": 8, "x": 3}'),
    ],
)
def test_a_damaged_file_is_a_data_error_that_names_it(file: str, text: str | None, tmp_path: Path) -> None:
    small().save(tmp_path)
    (tmp_path / file).unlink() if text is None else (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as caught:
        open_tokenizer(tmp_path)
    assert Path(str(caught.value.where)).parent == tmp_path and caught.value.remedy
    if text is not None:
        assert caught.value.where == str(tmp_path / file)


@pytest.mark.parametrize("rules", [{"vocab_size": 7}, {"vocab_size": 9}, {"pad_id": 8}, {"clips": (5, 6, 8)}])
def test_rules_of_another_file_are_refused(rules: dict[str, Any], tmp_path: Path) -> None:
    small().save(tmp_path)
    path = tmp_path / "tokenizer_rules.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | rules))
    with pytest.raises(DataError, match="has 8 ids"):
        open_tokenizer(tmp_path)


def test_a_file_that_does_more_than_put_tokens_around_a_text_is_refused() -> None:
    described = json.loads(content())
    text, mark = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "?", "type_id": 0}}
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [text, mark, text],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"?": {"id": "?", "ids": [3], "tokens": ["?"]}},
    }
    with pytest.raises(DataError, match="more"):
        HuggingFaceTokenizer(json.dumps(described).encode(), HuggingFaceRules("lower", 0, 8))
