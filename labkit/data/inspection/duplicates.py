"""Texts that repeat others: exact, nearly, and across splits; near ones are found by MinHash and then counted out.

Used by `inspect`. Two texts are *nearly* the same when they share most of their word pairs **and** no
number or name tells them apart: two letters written by one form share nearly all words, but the order number, the
product or the place is another, and so is the case. A resent letter keeps them and differs in words.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from labkit.data.inspection.texts import WORD

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

# Bands x rows of the MinHash signature: a pair that shares 0.7 of its word pairs is met with probability 0.996, one
# that shares 0.75 with 0.9994, one that shares 0.1 with 0.002. What is met is counted exactly.
BANDS, ROWS = 20, 4
FEW = 48  # texts with the same numbers that are compared one by one, without MinHash
CROWD = 200  # of a form that was filled in more often than this, repeats of the later ones are not looked for
KEPT = 20_000  # texts whose word pairs are kept for the next comparison
_STEM = re.compile(r"([\u3040-\u30ff\u3400-\u9fff]|[^\W_]+)(?:['’][^\W_]+)*")  # Pelgar of Pelgar's
_NUMBER = re.compile(r"(?<!\w)\w*\d\w*")
Match = tuple[int, float]  # the number of a text, and the share of word pairs in common


def same_key(text: str) -> str:
    """What two texts have in common that are the same but for case and spaces; as `split` has it."""
    return " ".join(text.casefold().split())


def repeats(texts: Sequence[str], parts: Sequence[int], near: float) -> tuple[dict[int, Match], dict[int, Match]]:
    """Texts that nearly repeat an earlier one of their own part, and texts that repeat one of a later part.

    Args:
        texts: different texts, in the order of their parts; one that is in several parts is there as often.
        parts: the part of each, 0 for the first; they do not fall.
        near: the share of word pairs (Jaccard) from which on two texts are nearly the same.

    Returns:
        Two dicts from the number of a text to (number of the other, share). In the first the other is a text that is
        in no such pair itself, so that whoever drops the keys keeps one of each. In the second the other is in a
        later part.
    """
    special = _Special(texts)
    groups: dict[frozenset[str], list[int]] = {}
    for number, text in enumerate(texts):
        if WORD.search(text):  # signs alone are never nearly the same
            groups.setdefault(special.numbers(text), []).append(number)
    within: dict[int, Match] = {}
    across: dict[int, Match] = {}
    for group in groups.values():
        if len(group) == 1:
            continue
        index = _Index() if len(group) > FEW else _All()
        for number in _last_part_first(group, parts):
            sketch = index.sketch(special.pairs(texts[number]))
            met = index.query(sketch)
            kept = [other for other in met if parts[other] == parts[number] and other not in within]
            if found := special.first_like(number, kept, near):
                within[number] = found
            if found := special.first_like(number, [other for other in met if parts[other] > parts[number]], near):
                across[number] = found
            if len(met) < CROWD:
                index.insert(number, sketch)
    return within, across


def _last_part_first(group: list[int], parts: Sequence[int]) -> Iterator[int]:
    for part in sorted({parts[number] for number in group}, reverse=True):
        yield from (number for number in group if parts[number] == part)


class _Special:
    """Numbers and names in texts: what tells two cases apart that were written in the same words."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.pairs = lru_cache(KEPT)(word_pairs)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_STEM.findall(text))
        # A word that is written with a capital more often than without is a name, at the start of a sentence too.
        self.known = {word for word, count in counts.items()
                      if len(word) > 1 and word.istitle() and count > counts[word.lower()]}

    @staticmethod
    def numbers(text: str) -> frozenset[str]:
        return frozenset(_NUMBER.findall(text))

    def names(self, text: str) -> set[str]:
        return self.known.intersection(_STEM.findall(text))

    def first_like(self, number: int, others: Sequence[int], near: float) -> Match | None:
        """The first of `others`, which have the same numbers, that is nearly the same text."""
        mine, pairs = None, self.pairs(self.texts[number])
        for other in others:
            theirs = self.pairs(self.texts[other])
            if min(len(pairs), len(theirs)) < near * max(len(pairs), len(theirs)):
                continue
            common = len(pairs & theirs)
            share = common / (len(pairs) + len(theirs) - common)
            if share < near:
                continue
            mine = self.names(self.texts[number]) if mine is None else mine
            named = self.names(self.texts[other])
            if mine <= named or named <= mine:  # a greeting or a signature may come on top; a name never changes
                return other, share
        return None


def word_pairs(text: str) -> frozenset[str]:
    """The pairs of neighbouring words in a text, in small letters; a text of one word has that word."""
    words = WORD.findall(text.lower().replace("’", "'"))
    return frozenset(f"{a} {b}" for a, b in zip(words, words[1:], strict=False)) or frozenset(words)


class _All:
    """An index for a few texts: everything is met."""

    def __init__(self):
        self.held: list[int] = []

    def sketch(self, pairs: frozenset[str]) -> None:
        return None

    def query(self, sketch: None) -> list[int]:
        return sorted(self.held)

    def insert(self, number: int, sketch: None) -> None:
        self.held.append(number)


class _Index:
    """An index for many texts: those are met that share a band of their MinHash signature (Broder, 1997)."""

    def __init__(self):
        from datasketch import MinHashLSH

        self.lsh: MinHashLSH = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))

    def sketch(self, pairs: frozenset[str]) -> MinHash:
        sketch = _empty_sketch().copy()
        sketch.update_batch([pair.encode("utf-8", "surrogatepass") for pair in pairs])
        return sketch

    def query(self, sketch: MinHash) -> list[int]:
        return sorted(self.lsh.query(sketch))

    def insert(self, number: int, sketch: MinHash) -> None:
        self.lsh.insert(number, sketch)


@lru_cache(maxsize=1)
def _empty_sketch() -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=zlib.crc32)
