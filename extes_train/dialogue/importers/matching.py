"""Finding the scenario or strategy that a free spelling means."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping

from extes_train.dialogue.taxonomy import Scenario, Strategy, slug

_FILLERS = frozenset(["a", "an", "and", "at", "the", "of", "or", "to", "with", "for", "in", "on", "from", "s"])
_NUMBERING = re.compile(r"^\s*(?:(?:scene|scenario|strategy)\s*)?(?:\d+\s*[.):-])?\s*:?\s*", re.IGNORECASE)
_ENDING = re.compile(r"(?<=...)(?:ing|es|e|s)$")
CUTOFF = 0.72  # below it a spelling means nothing known


def match(text: str, entries: Mapping[str, Scenario] | Mapping[str, Strategy]) -> tuple[str | None, bool]:
    """The id that `text` means and whether it was spelt as published, or (None, False).

    The slug of the text decides where it is an id; then the best overlap of word stems and of letters does, over the
    title, the title without its parenthesis, and the parenthesis alone ("PTSD"). A shorter spelling ("Anxiety") passes
    where only one title has all of its words.
    """
    plain = slug(_NUMBERING.sub("", text))
    if plain in entries:
        return plain, text.strip() == entries[plain].title
    best, runner_up, chosen = 0.0, 0.0, None
    for identifier, entry in entries.items():
        score = max(_similarity(plain, name) for name in _names(entry.title))
        if score > best:
            best, runner_up, chosen = score, best, identifier
        elif score > runner_up:
            runner_up = score
    if best >= CUTOFF and best > runner_up:
        return chosen, False
    holding = [identifier for identifier, entry in entries.items() if _holds(entry.title, plain)]
    return (holding[0] if len(holding) == 1 else None), False


@functools.cache
def _names(title: str) -> tuple[str, ...]:
    outside = slug(re.sub(r"\(.*?\)", "", title))
    return tuple(dict.fromkeys([slug(title), outside, *(slug(inner) for inner in re.findall(r"\((.*?)\)", title))]))


def _holds(title: str, plain: str) -> bool:
    stems = _stems(plain)
    return bool(stems) and any(stems <= _stems(name) for name in _names(title))


def _similarity(a: str, b: str) -> float:
    """Letters and stems weigh the same; a spelling all of whose (two or more) words are in the name reaches CUTOFF."""
    stems_a, stems_b = _stems(a), _stems(b)
    if not stems_a or not stems_b:
        return 0.0
    shared = len(stems_a & stems_b)
    dice = 2 * shared / (len(stems_a) + len(stems_b))
    score = (dice + difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()) / 2
    if shared == min(len(stems_a), len(stems_b)) and shared >= 2:
        return max(score, CUTOFF + dice / 10)
    return score


@functools.cache
def _stems(text: str) -> frozenset[str]:
    return frozenset(_ENDING.sub("", word)[:5] for word in text.split("-") if word and word not in _FILLERS)
