"""Facts of kdx/core/digests.py, against published values and canonical JSON written by hand."""

import hashlib
from pathlib import Path

from kdx.core.digests import file_digest, value_digest


def test_a_file_has_the_published_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc") == expected


def test_a_value_is_digested_as_canonical_json() -> None:
    canonical = b'{"a":[1,2.5,null],"b":"na\\u00efve"}'
    assert value_digest({"b": "naïve", "a": [1, 2.5, None]}) == hashlib.sha256(canonical).hexdigest()


def test_the_order_of_keys_does_not_count_and_that_of_lists_does() -> None:
    assert value_digest({"a": 1, "b": {"c": 2, "d": 3}}) == value_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert value_digest([1, 2]) != value_digest([2, 1])
    assert value_digest((1, 2)) == value_digest([1, 2])
