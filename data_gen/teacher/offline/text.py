"""Small tools on text: templates with choices and slots, changing the person, sentence case, content words."""

from __future__ import annotations

import functools
import random
import re
from typing import Any

_TOKEN = re.compile(r"[\[\]|]|\{(\w+)\}|[^\[\]|{}]+")
_TAG = re.compile(r"\s*#(\w+)$")
_WORD = re.compile(r"[A-Za-z']+")
_SENTENCE_START = re.compile(r"(^|[.!?]\s+)([a-z])")
_LONE_I = re.compile(r"\bi\b(?=[ ,.'?!]|$)")


class Template:
    """A phrase with `[choice|choice]` and `{slot}`; an optional `#tag` at its end says what it invites."""

    __slots__ = ("parts", "source", "tag")

    def __init__(self, source: str) -> None:
        tag = _TAG.search(source)
        self.tag = tag.group(1) if tag else ""
        self.source = source[: tag.start()] if tag else source
        self.parts = _parse(self.source)

    def fill(self, slots: dict[str, str], rng: random.Random) -> str:
        """The phrase with choices made and slots filled, each sentence with a capital."""
        out: list[str] = []
        _render(self.parts, slots, rng.random, out)
        return sentence_case("".join(out))


def _parse(source: str) -> list[Any]:
    """Literals as str, slots as 1-tuples, choices as lists of part lists."""
    stack: list[list[Any]] = [[]]
    choices: list[list[Any]] = []
    for match in _TOKEN.finditer(source):
        token = match.group()
        if token == "[":
            choices.append([])
            stack.append([])
        elif token == "|" and choices:
            choices[-1].append(stack.pop())
            stack.append([])
        elif token == "]":
            choices[-1].append(stack.pop())
            stack[-1].append(choices.pop())
        elif match.group(1):
            stack[-1].append((match.group(1),))
        else:
            stack[-1].append(token)
    assert not choices and len(stack) == 1, f"unbalanced brackets: {source}"
    return stack[0]


def _render(parts: list[Any], slots: dict[str, str], uniform: Any, out: list[str]) -> None:
    for part in parts:
        if part.__class__ is str:
            out.append(part)
        elif part.__class__ is tuple:
            out.append(slots[part[0]])
        else:
            _render(part[int(uniform() * len(part))], slots, uniform, out)


def sentence_case(text: str) -> str:
    """A capital after each full stop, and "I" alone."""
    text = _SENTENCE_START.sub(_upper, text)
    return text.replace("..", ".").replace(",,", ",").replace(".,", ",")


def _upper(match: re.Match[str]) -> str:
    return match.group(1) + match.group(2).upper()


_SECOND = {
    "i": "you",
    "i'm": "you're",
    "i'd": "you'd",
    "i've": "you've",
    "i'll": "you'll",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "we": "you",
    "we're": "you're",
    "we've": "you've",
    "us": "you",
    "our": "your",
    "ours": "yours",
    "ourselves": "yourselves",
    "am": "are",
}
_THIRD = {
    **{key: value.replace("yourselves", "themselves") for key, value in _SECOND.items()},
    **{"i": "they", "i'm": "they're", "i'd": "they'd", "i've": "they've", "i'll": "they'll", "me": "them"},
    **{"my": "their", "mine": "theirs", "myself": "themselves", "we": "they", "us": "them", "our": "their"},
    **{"ours": "theirs", "we're": "they're", "we've": "they've"},
}
_PERSON = re.compile(
    r"\b(?:(I|we) was|I was|(I'm|I'd|I've|I'll|we're|we've|I|me|my|mine|myself|we|us|our|ours|ourselves|am))\b(?!')",
    re.I,
)


@functools.lru_cache(maxsize=65536)
def told_back(clause: str) -> str:
    """A first-person clause as the listener says it: "I lost my keys" -> "you lost your keys"."""
    return _PERSON.sub(lambda match: _swap(match, _SECOND, "you were"), clause)


@functools.lru_cache(maxsize=65536)
def told_about(clause: str) -> str:
    """A first-person clause as told about someone: "I lost my keys" -> "they lost their keys"."""
    return _PERSON.sub(lambda match: _swap(match, _THIRD, "they were"), clause)


def _swap(match: re.Match[str], table: dict[str, str], was: str) -> str:
    word = match.group(2)
    return was if word is None else table[word.lower()]


_STOP_WORDS_LIST = """
a about after again all also am an and any are as at be because been before being but by can could did do does done
down even ever every feel feeling felt few for from get gets give go goes going got had has have having he her here
hers him his how i if in into is it its just keep know let like little made make many may maybe me might more most
much must my myself never no not nothing now of off on once one only or other our out over own really said same say
says see she should so some something still such than that the their them then there these they thing things think
this those though through time to told too under until up us very want was way we well were what when where which
while who why will with would yes yet you your
"""
STOP_WORDS = frozenset(_STOP_WORDS_LIST.split())


def content_words(text: str) -> list[str]:
    """Lower-case words that carry meaning, in order, each once."""
    return [
        word
        for word in dict.fromkeys(match.group().lower() for match in _WORD.finditer(text))
        if len(word) > 2 and word not in STOP_WORDS
    ]


def clauses(text: str) -> list[str]:
    """A text cut at sentence ends, without the final punctuation and with a small first letter where that is safe."""
    pieces = [piece.strip(' ,;:-–—"“”') for piece in re.split(r"[.!?…]+\s+|[.!?…]+$|\n+", text)]
    return [_small(piece) for piece in pieces if piece]


def _small(piece: str) -> str:
    first, _, rest = piece.partition(" ")
    if first in ("I", "I'm", "I've", "I'd", "I'll") or (len(first) > 1 and not first[1:].islower()):
        return piece
    if first.lower() in STOP_WORDS or first.lower() in {"my", "our", "yesterday", "today", "last"}:
        return first.lower() + (" " + rest if rest else "")
    return piece


_REFUSALS = (
    "no|sorry, no|i am not sure that|that does not help|with respect|i do not agree|you do not get it"
    "|i do not think you|i would rather not|i do not want to|please do not tell|i did not come"
)
_WISHES = "i only want to|all i want|if i could just|i would love to|my wish|i would like to|i want to"
_KINDS = (
    ("last", re.compile(r"\b(thank you|thanks|good night|bye for now)\b", re.I)),
    ("resist", re.compile(rf"^({_REFUSALS})\b", re.I)),
    ("fear", re.compile(r"\b(afraid|fear|scares?|scared|sometimes i think|at night i think)\b", re.I)),
    ("wish", re.compile(rf"\b({_WISHES})\b", re.I)),
)


def kind_of_turn(text: str, first: bool = False) -> str:
    """What a seeker's turn is: first, last, resist, fear, wish or detail."""
    if first:
        return "first"
    return next((kind for kind, pattern in _KINDS if pattern.search(text)), "detail")
