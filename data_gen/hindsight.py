"""Hindsight: a response that states what the seeker has not said yet.

With the right context visible, a teacher may use it. A student sees the left context only, so such a response would
teach it to guess. Three kinds count, each absent from the left context and from the original response:
names and numbers of any later turn, and content words that a later seeker turn is the first to use.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from itertools import pairwise

from data_gen.common_words import COMMON_WORDS
from extes_train.dialogue.schema import SEEKER, Turn
from extes_train.dialogue.shingles import words

_TO_TWENTY = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: str(n) for n, word in enumerate(_TO_TWENTY)} | {
    word: str(30 + 10 * n) for n, word in enumerate(_TENS)
}
_TEN_WORDS = frozenset(["twenty", *_TENS])
_ORDINAL = re.compile(r"^(\d+)(?:st|nd|rd|th|s)$")
_NAME = re.compile(r"(?<![.!?…:\n\"“”'(] )(?<!^)\b([A-Z][a-zà-ÿ'’-]{1,})")
_NO_NAMES = frozenset(["i'm", "i'll", "i've", "i'd", "okay", "ok", "mum", "mom", "dad", "god", "christmas"])
_SUFFIXES = ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly", "er", "est", "e", "y")
MIN_LETTERS = 4  # of a content word


def stem(word: str) -> str:
    """A crude stem: enough to see that "diagnosed" and "diagnosis" or "sisters" and "sister" belong together."""
    word = word.removesuffix("'s").removesuffix("'")
    for _ in range(2):  # "sisters" -> "sister" -> "sist", as "sister" itself
        cut = next((s for s in _SUFFIXES if word.endswith(s) and len(word) - len(s) >= MIN_LETTERS), None)
        if cut is None:
            break
        word = word[: -len(cut)]
    return word


def hindsight(response: str, left: Sequence[Turn], original: str, right: Sequence[Turn]) -> list[str]:
    """The words of `response` that only the turns of `right` could have told, in the order of the response.

    `left`: the turns before it; `original`: the response that was given, to which the next turn replies.
    """
    known_words = [word for turn in left for word in words(turn.text)] + words(original)
    known = {stem(word) for word in known_words}
    known_numbers = {number for _, number in _numbered(known_words) if number}
    names = {name for turn in right for name in _names(turn.text)}
    numbers = {number for turn in right for _, number in _numbered(words(turn.text)) if number}
    told = _first_told_by_seeker(right, known)
    found = []
    for word, number in _numbered(words(response)):
        if number:
            if number in numbers and number not in known_numbers:
                found.append(word)
        elif stem(word) not in known and (stem(word) in names or stem(word) in told):
            found.append(word)
    return found


def content_stems(text: str) -> set[str]:
    """The stems of the words of `text` that are neither common nor short."""
    return {stem(word) for word in words(text) if len(word) >= MIN_LETTERS and word.isalpha() and not _common(word)}


def _first_told_by_seeker(right: Sequence[Turn], known: set[str]) -> set[str]:
    """Content stems whose first use after the response is a seeker's: what a supporter brings up is no disclosure."""
    told: set[str] = set()
    by_supporter: set[str] = set()
    for turn in right:
        stems = content_stems(turn.text)
        if turn.speaker == SEEKER:
            told |= stems - known - by_supporter
        else:
            by_supporter |= stems - told
    return told


def _names(text: str) -> list[str]:
    """Stems of the capitalised words inside sentences."""
    found = [match.group(1).lower().replace("’", "'") for match in _NAME.finditer(text)]
    return [stem(word) for word in found if word not in _NO_NAMES]


def _number(word: str) -> str | None:
    """`word` as digits, from two up: "one" says little."""
    digits = _ORDINAL.sub(r"\1", word) if word[:1].isdigit() else _NUMBERS.get(word)
    return digits if digits and digits.isdigit() and digits not in ("0", "1") else None


def _numbered(found: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each word with its number; "thirty four" is one number, told by both words."""
    pairs = [(word, _number(word)) for word in found]
    for i, (word, following) in enumerate(pairwise(found)):
        unit = _NUMBERS.get(following, "")
        if word in _TEN_WORDS and len(unit) == 1 and unit != "0":
            both = str(int(_NUMBERS[word]) + int(unit))
            pairs[i], pairs[i + 1] = (word, both), (following, both)
    return pairs


@functools.cache
def _common_stems() -> frozenset[str]:
    return frozenset(stem(word) for word in COMMON_WORDS)


def _common(word: str) -> bool:
    return word in COMMON_WORDS or stem(word) in _common_stems()
