"""One pass over a dialogue's words, shared by the filters and the near-duplicate search.

A word is looked up once: its row in a table says its hash and on which word lists of the filters it stands.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extes_train.dialogue.shingles import words

_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(32)
_PUNCTUATION = {"’": "'", "‘": " ", "“": " ", "”": " ", "—": " ", "–": " ", "…": " "}  # what chat models write
_BETWEEN = " \0 "  # texts
_LOWER = bytes(
    ord(c.lower()) if c.isascii() and (c.isalnum() or c in "_'\0") else ord(" ") for c in map(chr, range(256))
)


def word_hash(word: str) -> int:
    """A 64-bit hash that is the same in every process."""
    data = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) | zlib.adler32(data[::-1] + b"#") << 32


class _Lexicon(dict[str, int]):
    """word -> row of `hashes` and `lists`; begun anew when it is full, so a row is good until the next word only."""

    ROWS = 1 << 16

    def __init__(self) -> None:
        super().__init__()
        self.hashes = np.zeros(self.ROWS, np.uint64)
        self.lists = np.zeros(self.ROWS, np.uint32)  # bit i: the word stands on list i
        self._on_list: dict[str, int] = {}
        self._lists = 0

    def add_list(self, text: str) -> int:
        """Register the words of a list; returns its bit."""
        bit = 1 << self._lists
        self._lists += 1
        assert self._lists <= 32
        for word in text.split():
            self._on_list[word] = self._on_list.get(word, 0) | bit
        self.clear()
        return bit

    def __missing__(self, word: str) -> int:
        row = len(self)
        self.hashes[row] = word_hash(word)
        self.lists[row] = self._on_list.get(word, 0)
        self[word] = row
        return row

    def rows(self, found: Sequence[str]) -> NDArray[np.intp]:
        """The row of each word."""
        if len(self) + len(found) > len(self.hashes):
            self.clear()
            if len(found) > len(self.hashes):
                self.hashes, self.lists = np.zeros(len(found), np.uint64), np.zeros(len(found), np.uint32)
        return np.fromiter(map(self.__getitem__, found), np.intp, len(found))


_lexicon = _Lexicon()
_TRUE = np.ones(1, bool)


def word_list(text: str) -> int:
    """A word list, written as one text, that `TextView.having` and `count` can look for. Call it at import."""
    return _lexicon.add_list(text)


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """`[words(text) for text in texts]`, at a third of the cost where the letters are ASCII."""
    whole = " " + _BETWEEN.join(texts) + " "
    if not whole.isascii():
        for mark, plain in _PUNCTUATION.items():
            whole = whole.replace(mark, plain)
    if not whole.isascii() or whole.count("\0") != len(texts) - 1:
        return [words(text) for text in texts]
    whole = whole.encode().translate(_LOWER).decode()
    if "'" in whole:  # only those between letters belong to a word
        whole = whole.replace("''", "  ").replace(" '", "  ").replace("' ", "  ")
    return [text.split() for text in whole.split("\0")]


class TextView:
    """The words of several texts: `words[i]` of text i, `flat` of all in order, a hash and the word lists of each."""

    __slots__ = ("_all_lists", "_trigrams", "_unique", "flat", "hashes", "lengths", "lists", "words")

    def __init__(self, texts: Sequence[str]) -> None:
        self.words = words_of(texts)
        self.lengths = list(map(len, self.words))
        self.flat = list(chain.from_iterable(self.words))
        rows = _lexicon.rows(self.flat)
        self.hashes: NDArray[np.uint64] = _lexicon.hashes[rows]
        self.lists: NDArray[np.uint32] = _lexicon.lists[rows]
        self._all_lists = int(np.bitwise_or.reduce(self.lists))
        self._trigrams: NDArray[np.uint64] | None = None
        self._unique: NDArray[np.uint64] | None = None

    def trigrams(self) -> NDArray[np.uint64]:
        """A hash of every 3 successive words of all texts one after another; one of all words where there are fewer."""
        if self._trigrams is not None:
            return self._trigrams
        h = self.hashes
        if 0 < len(h) < 3:
            h = np.concatenate([h, np.zeros(3 - len(h), np.uint64)])
        mixed = h[:-2] * _MULTIPLIERS[0]
        mixed += h[1:-1] * _MULTIPLIERS[1]
        mixed += h[2:] * _MULTIPLIERS[2]
        mixed ^= mixed >> _SHIFT
        mixed *= _MIX
        mixed ^= mixed >> _SHIFT
        self._trigrams = mixed
        return mixed

    def shingles(self) -> NDArray[np.uint64]:
        """The set of word 3-shingles (`extes_train.dialogue.shingles`) as sorted 64-bit hashes."""
        if self._unique is None:
            self._unique = sorted_unique(np.sort(self.trigrams()))
        return self._unique

    def having(self, triggers: int, of: range | None = None) -> list[int]:
        """The indices of the texts (those in `of`; all) that hold a word of the list `triggers`."""
        if not self._all_lists & triggers:
            return []
        found = np.flatnonzero(self.lists & np.uint32(triggers))
        ends = list(accumulate(self.lengths))
        owners = dict.fromkeys(np.searchsorted(ends, found, side="right").tolist())
        return [i for i in owners if of is None or i in of]

    def count(self, triggers: int) -> int:
        """How many of the words stand on the list `triggers`."""
        return int(np.count_nonzero(self.lists & np.uint32(triggers)))


def sorted_unique(values: NDArray[Any]) -> NDArray[Any]:
    """The different values of a sorted array (np.unique without the sorting, which is most of its cost)."""
    if len(values) < 2:
        return values
    return values[np.concatenate([_TRUE, values[1:] != values[:-1]])]
