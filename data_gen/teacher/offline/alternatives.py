"""Other responses for a supporter turn, out of what the seeker said so far."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

from data_gen.teacher.offline.bank import kin_of, load_bank, theme_for
from data_gen.teacher.offline.compose import DEFAULT_STRATEGIES, REPLY, Deck
from data_gen.teacher.offline.prompt import Ask
from data_gen.teacher.offline.text import STOP_WORDS, clauses, content_words, kind_of_turn, told_back

_POSSESSED = re.compile(r"\b(my|our|this|the) ([a-z]{3,})(?: ([a-z]{3,}))?\b")
_FEELINGS_LIST = """
afraid alone angry anxious ashamed betrayed bitter confused defeated depressed desperate disappointed down empty
exhausted exposed foolish frightened frustrated furious grumpy guilty helpless hopeless humiliated hurt ignored
invisible jealous lonely lost miserable nervous numb overwhelmed panicky powerless proud rejected relieved restless
sad scared shaky sick small stressed stuck stupid tense tired torn trapped uneasy unloved unsure upset useless weak
weary worn worried worthless
"""
_FEELINGS = frozenset(_FEELINGS_LIST.split())
_RELATIVES_LIST = """
aunt boss boyfriend brother children colleague cousin dad daughter doctor ex father fiance friend friends girlfriend
grandfather grandma grandmother husband kids landlord manager mother mum mom neighbour nephew niece parents partner
professor sister son supervisor teacher therapist uncle wife
"""
_RELATIVES = frozenset(_RELATIVES_LIST.split())
_LONGEST_ECHO = 14  # words
NOBODY = "\x00"  # stands where a name would: the conversation need not tell one
_NAMELESS = re.compile(rf",? {NOBODY}(?=[,.:;?!])|{NOBODY}, ")
_LEAD = re.compile(
    r"^(?:(?:you know|well|and|but|so|yes|yeah|okay|ok|hm+|oh|honestly|besides|exactly|still|also|no|right)\b[, ]+)+",
    re.I,
)


def alternatives(ask: Ask, rng: random.Random) -> list[dict[str, Any]]:
    """`count` distinct responses to the last seeker turn in `ask.turns`."""
    said = [text for _, speaker, _, text in ask.turns if speaker == "seeker"]
    used = [text for _, speaker, _, text in ask.turns if speaker == "supporter"]
    strategies = _strategies(ask, rng)
    slots = _slots(ask, said, rng)
    bank = load_bank().supporter
    taken: set[str] = set()
    result: list[dict[str, Any]] = []
    for strategy in strategies:
        slots["strategy"] = strategy.replace("-", " ").replace("_", " ")
        kin = kin_of(strategy, ask.strategies.get(strategy, ""))
        text = _say(bank[kin], bank, slots, rng, taken, used)
        if said and rng.random() < REPLY:
            replies = load_bank().replies[kind_of_turn(said[-1], first=len(said) == 1)]
            text = replies[int(rng.random() * len(replies))].fill(slots, rng) + " " + text
        item: dict[str, Any] = {"text": text, "strategy": strategy}
        if ask.probabilities:
            item["probability"] = round(rng.uniform(0.02, 0.5), 2)
        result.append(item)
    return result


def fill_dialogue(ask: Ask, rng: random.Random) -> list[dict[str, Any]]:
    """Alternatives for every supporter turn (or those asked for), each from what comes before it alone."""
    wanted = set(ask.fill)
    result = []
    for index, (number, speaker, strategy, _) in enumerate(ask.turns):
        if speaker != "supporter" or (wanted and number not in wanted):
            continue
        held = [strategy] if ask.mode == "held" and strategy else ask.wanted
        part = replace(ask, kind="turn", wanted=held, turns=ask.turns[:index])
        result.append({"turn": number, "alternatives": alternatives(part, rng)})
    return result


def _strategies(ask: Ask, rng: random.Random) -> list[str]:
    known = list(ask.strategies or DEFAULT_STRATEGIES)
    if ask.mode == "held" and ask.wanted:
        return ask.wanted[:1] * ask.count
    deck = Deck(tuple(known), rng)
    wanted = list(dict.fromkeys(ask.wanted))[: ask.count] if ask.mode in ("varied", "listed") else []
    result = list(wanted)
    while len(result) < ask.count:
        name = deck.deal()
        if name not in wanted or len(known) <= ask.count:
            result.append(name)
    return result


def _slots(ask: Ask, said: list[str], rng: random.Random) -> dict[str, str]:
    """The particulars of the conversation, as the supporter says them. Only the left context is used."""
    theme = theme_for(ask.scenario, ask.title, ask.definition)
    common, choice = load_bank().common, rng.choice
    last = said[-1] if said else ""
    words = content_words(last)
    before = content_words(" ".join(said[:-1]))
    feelings = [word for word in (*words, *reversed(before)) if word in _FEELINGS]
    feelings += [feel for feel in rng.sample(theme.feel, len(theme.feel)) if feel not in feelings]
    people = [f"your {word}" for word in (*words, *reversed(before)) if word in _RELATIVES]
    things = [thing for found in _POSSESSED.findall(last) if (thing := _possession(*found))]
    step, step2 = rng.sample(theme.steps, 2)
    care, care2 = rng.sample(common["cares"], 2)
    helper = "a person you trust"
    slots = {
        "name": NOBODY,
        "who": people[0] if people else "the other person",
        "thing": choice(things[:3]) if things else _thing(words, before),
        "echo": _echo(last, rng),
        "feel": feelings[0],
        "feel2": feelings[1],
        "fear": _echo(last, rng),
        "wish": "find some rest in this",
        "step": told_back(step.replace("{helper}", "a person I trust")),
        "step2": told_back(step2.replace("{helper}", "a person I trust")),
        "fact": choice(theme.facts),
        "care": told_back(care),
        "care2": told_back(care2),
        "helper": helper,
        "time": choice(("in quiet moments", "at night", "in the evening", "some days", "at times like these")),
        "when": choice(("this evening", "tomorrow", "this week", "on a quiet day", "after a rest", "this weekend")),
    }
    return slots


def _say(templates: Any, bank: Any, slots: dict[str, str], rng: random.Random, taken: set[str], used: list[str]) -> str:
    """A phrase that this turn's other responses do not use."""
    free = [template for template in templates if template.source not in taken] or list(templates)
    text = ""
    for _ in range(4):
        template = free[int(rng.random() * len(free))]
        taken.add(template.source)
        text = template.fill(slots, rng)
        if rng.random() < 0.35 and not template.tag:
            closers = [closer for closer in bank["closers"] if closer.source not in taken] or list(bank["closers"])
            closer = closers[int(rng.random() * len(closers))]
            taken.add(closer.source)
            text += " " + closer.fill(slots, rng)
        text = _NAMELESS.sub("", text)
        if text not in used and NOBODY not in text:
            break
    return text.replace(NOBODY, "dear friend")


def _echo(text: str, rng: random.Random) -> str:
    """The weightiest clause of a seeker turn, addressed to the seeker."""
    pieces = [_LEAD.sub("", piece) for piece in clauses(text)]
    pieces = [piece for piece in pieces if len(piece.split()) > 2 and not piece.lower().startswith("thank")]
    if not pieces:
        return "it is not easy to put into words"
    weighed = sorted(pieces, key=lambda piece: -len(content_words(piece)))
    chosen = weighed[0] if len(weighed) == 1 or rng.random() < 0.7 else weighed[1]
    words = chosen.split()
    if len(words) > _LONGEST_ECHO:
        cut = next((i for i in range(_LONGEST_ECHO, 5, -1) if words[i - 1][-1] in ",;:"), 0)
        if not cut:
            cut = next(
                (i for i in range(_LONGEST_ECHO, 5, -1) if words[i] in ("and", "but", "because", "when", "so")), 0
            )
        chosen = " ".join(words[: cut or _LONGEST_ECHO]).rstrip(",;:-")
    return told_back(chosen)


def _thing(words: list[str], before: list[str]) -> str:
    rest = [word for word in (*words, *reversed(before)) if word not in _FEELINGS and word not in _RELATIVES]
    return f"the {rest[0]}" if rest and not rest[0].endswith(("ing", "ed", "ly", "n't")) else "all of this"


def _possession(determiner: str, first: str, second: str) -> str:
    """ "your sister", "the long letter"; empty where no thing is named."""
    if first in STOP_WORDS:
        return ""
    adjective = second and second not in STOP_WORDS and first.endswith(("y", "al", "ous", "ful", "ive", "ic", "d"))
    return ("your " if determiner in ("my", "our") else determiner + " ") + (
        f"{first} {second}" if adjective else first
    )
