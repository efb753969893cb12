"""Seeded lines of Unicode that try what can make two tokenizers disagree."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

SPECIALS = ("<start_of_text>", "<end_of_text>")


class Corpus:
    """Seeded lines that try what can make two tokenizers disagree."""

    BLOCKS = (
        *((0x20, 0x7F), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x530, 0x590), (0x590, 0x700)),
        *((0x900, 0xE00), (0xE00, 0x1000), (0x1000, 0x1400), (0x1780, 0x1800), (0x1E00, 0x2000)),
        *((0x2000, 0x2C00), (0x2C00, 0x2E00), (0x3000, 0x3200), (0x4E00, 0x9FFF), (0xA000, 0xA980)),
        *((0xAC00, 0xD7A4), (0xE000, 0xE100), (0xF900, 0xFE00), (0xFE00, 0x10000), (0x10000, 0x10400)),
        *((0x1D400, 0x1D800), (0x1F000, 0x1FB00), (0x20000, 0x20100), (0xE0000, 0xE01F0)),
    )
    WORDS = (
        "a",
        "photo",
        "of",
        "the",
        "Dog",
        "cats",
        "New",
        "York",
        "it's",
        "we'll",
        "I'M",
        "don't",
        "'s",
        "’ll",
    )
    SPACES = (
        *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000"),
        *("\u200b", "\u2028", "\x0b", "\x1c", "\x85"),
    )
    ENTITIES = (
        *("&amp;", "&lt;", "&amp;amp;", "&eacute;", "&#233;", "&#x1F600;"),
        *("&#0;", "&#xD800;", "&nbsp;", "&;", "&copy"),
    )
    EMOJI = ("😀", "👩‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇩🇪", "1️⃣", "❤️", "☺︎", "\ud83d\ude00", "\ud83d", "\ude00")
    ODDITIES = (
        *("ſ", "'ſ", "\u212a", "İ", "ı", "Σ", "ΑΣ", "ß", "ẞ", "ﬁ", "²", "½", "Ⅷ", "٣٤", "०१"),
        *("\u0345", "α\u0345", "\u200d", "\ufeff", "\ufffd", "e\u0301", "é", "ñ", "n\u0303\u0323"),
        *("Ã©", "â€™", "donâ€™t", "schÃ¶n", "\x00", "\x07", "\x1b[31m", "\x7f", "\ud800", "\udfff"),
        *("_", "__", "--", "...", "!!!", "<", ">", "#1", "3.14", "1st", "$5", "a_b", "‘quoted’", "“double”"),
    )

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def characters(self) -> Iterator[str]:
        """Every 29th code point between letters: a class (letter, digit, other) that is wrong shows."""
        for point in range(0, sys.maxunicode + 1, 29):
            if point < 0x30000 or (point >= 0xE0000 and point < 0xE0200) or point % 1013 == 0:
                yield f"a{chr(point)}b {chr(point)}1"

    def scripts(self, count: int) -> Iterator[str]:
        for _ in range(count):
            low, high = self.random.choice(self.BLOCKS)
            letters = [chr(self.random.randrange(low, high)) for _ in range(self.random.randint(1, 24))]
            for _ in range(self.random.randint(0, 4)):
                letters.insert(self.random.randint(0, len(letters)), self.random.choice(self.SPACES))
            yield "".join(letters)

    def mixtures(self, count: int) -> Iterator[str]:
        kinds = (self.WORDS, self.WORDS, self.SPACES, self.ENTITIES, self.EMOJI, self.ODDITIES)
        for _ in range(count):
            yield "".join(
                self.random.choice(self.random.choice(kinds)) + self.random.choice(("", "", " "))
                for _ in range(self.random.randint(1, 12))
            )

    def ascii(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield "".join(chr(self.random.randrange(0x80)) for _ in range(self.random.randint(0, 40)))

    def captions(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield " ".join(self.random.choice(self.WORDS) for _ in range(self.random.randint(1, 30))) + "."

    def specials(self) -> Iterator[str]:
        neighbours = ("", " ", "a", "1", "!", "!<", "<", ">", "é", "'s", "\u0345", "&lt;", "\n")
        for special in (
            *SPECIALS,
            "<START_OF_TEXT>",
            "<ſtart_of_text>",
            "<end_of_text",
            "&lt;end_of_text&gt;",
        ):
            for before in neighbours:
                for after in neighbours:
                    yield f"{before}{special}{after}"
        yield "".join(SPECIALS) * 50

    def long(self) -> Iterator[str]:
        yield "a" * 5000
        yield "".join(self.random.choice("abcdefghij") for _ in range(2000))
        yield "1" * 3000
        yield "!?" * 1000
        yield "é" * 1500
        yield "漢字" * 700
        yield "word " * 3000
        yield "\u0301" * 300

    def lines(self) -> list[str]:
        return [
            *("", " ", "\n", "\x00", "\u200b"),
            *self.specials(),
            *self.long(),
            *self.characters(),
            *self.scripts(4000),
            *self.mixtures(5000),
            *self.ascii(2000),
            *self.captions(2000),
        ]
