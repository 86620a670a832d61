"""A whole dialogue from a scene: who says what, in reply to what, with which strategy."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from data_gen.teacher.offline.bank import Bank, Theme, kin_of, load_bank, theme_for
from data_gen.teacher.offline.prompt import Ask
from data_gen.teacher.offline.text import Template, kind_of_turn, sentence_case, told_about, told_back

DEFAULT_STRATEGIES = dict.fromkeys(("clarification", "emotional-validation", "affirmation", "suggest-options"), "")
RESISTANCE = {True: 0.85, False: 0.04}  # probability that the seeker resists once, asked for or not
REPEAT = 0.06  # probability that a supporter turn keeps the strategy of the one before
BRIDGE = 0.6  # probability that a phrase that does not take up the seeker's words gets a sentence that does
REPLY = 0.8  # probability that a supporter turn begins with a word to the kind of turn before
PHASE = {  # where in a dialogue a kind of turn belongs, 0 to 1; noise of +-0.4 is added
    "clarification": 0.15,
    "reflective-statements": 0.3,
    "emotional-validation": 0.25,
    "empathetic-statements": 0.25,
    "normalize-experiences": 0.4,
    "avoid-judgment-and-criticism": 0.4,
    "self-disclosure": 0.5,
    "share-information": 0.55,
    "provide-different-perspectives": 0.55,
    "reframe-negative-thoughts": 0.6,
    "stress-management": 0.65,
    "suggest-options": 0.65,
    "promote-self-care-practices": 0.7,
    "collaborative-planning": 0.75,
    "affirmation": 0.6,
    "offer-hope": 0.8,
    "others": 0.5,
    "generic": 0.5,
}


class Deck:
    """Deals texts in random order and starts again when all are dealt."""

    def __init__(self, items: tuple[Any, ...], rng: random.Random) -> None:
        self._items, self._rng, self._left = items, rng, []  # type: ignore[var-annotated]

    def deal(self) -> Any:
        if not self._left:
            self._left = list(self._items)
            self._rng.shuffle(self._left)
        return self._left.pop()


@dataclass
class Scene:
    """The particulars of one dialogue."""

    slots: dict[str, str]  # first person, as the seeker says them
    theme: Theme
    decks: dict[str, Deck]
    bank: Bank
    rng: random.Random
    used: set[int] = field(default_factory=set)  # phrases already said

    def pick(self, templates: tuple[Template, ...]) -> Template:
        """A phrase not yet used in this dialogue, while there is one."""
        free = [template for template in templates if id(template) not in self.used] or templates
        chosen = free[int(self.rng.random() * len(free))]
        self.used.add(id(chosen))
        return chosen

    def draw(self, *names: str) -> None:
        """New particulars for these slots."""
        for name in names:
            text = self.decks[name].deal()
            self.slots[name] = text.replace("{helper}", self.slots["helper"]) if "{" in text else text


def build_scene(ask: Ask, rng: random.Random) -> Scene:
    """Draw the particulars of a dialogue for what was asked."""
    bank = load_bank()
    theme = theme_for(ask.scenario, ask.title, ask.definition)
    common, choice = bank.common, rng.choice
    shown = " ".join(str(exemplar.get("situation", "")) for exemplar in ask.exemplars)
    name = next((name for name in (choice(common["names"]) for _ in range(8)) if name not in shown), "Noa")
    who, thing, clause = choice(theme.events)
    hinted = re.search(r"\bof (1[89]|[2-7]\d)\b", ask.hint)  # pupils have no job: another age is drawn
    job = choice(common["jobs"])
    low, high = (60, 79) if "retired" in job else (18, 24) if "student" in job or "apprentice" in job else (21, 66)
    slots = {
        "name": name,
        "age": hinted.group(1) if hinted else str(rng.randint(low, high)),
        "job": job,
        "place": choice(common["places"]),
        "who": who,
        "thing": thing,
        "event": clause,
        "helper": choice(common["helpers"]),
        "span": choice(common["spans"]),
    }
    scene = Scene(slots, theme, {}, bank, rng)
    sources = {
        "detail": theme.details,
        "fear": theme.fears,
        "wish": theme.wishes,
        "step": theme.steps,
        "fact": theme.facts,
        "time": common["times"],
        "when": common["whens"],
        "body": common["bodies"],
        "care": common["cares"],
        "feel": theme.feel,
    }
    scene.decks = {name: Deck(items, rng) for name, items in sources.items()}
    for slot, deck in (("step2", "step"), ("care2", "care"), ("feel2", "feel")):
        scene.decks[slot] = scene.decks[deck]
    scene.draw(
        "detail", "fear", "wish", "step", "step2", "fact", "time", "when", "body", "care", "care2", "feel", "feel2"
    )
    return scene


def compose(ask: Ask, rng: random.Random) -> dict[str, Any]:
    """`{"situation", "turns"}` for a request to write a dialogue."""
    scene = build_scene(ask, rng)
    situation = _situation(scene, ask)
    total = _length(ask.utterances, rng)
    plan = _plan((total) // 2, ask, rng)
    resist_at = rng.randrange(2, max(len(plan), 3)) if rng.random() < RESISTANCE[ask.resists] and len(plan) > 2 else -1
    turns: list[dict[str, Any]] = []
    writer = _Writer(scene, ask)
    for index in range(total):
        if index % 2 == 0:
            turns.append(writer.seeker(index // 2, index >= total - 2, index // 2 == resist_at))
        else:
            turns.append(writer.supporter(plan[index // 2], index == total - 1))
    return {"situation": situation, "turns": turns}


class _Writer:
    """Keeps what was said last, so that each turn answers the one before."""

    def __init__(self, scene: Scene, ask: Ask) -> None:
        self.scene, self.ask = scene, ask
        self.echo = ""  # the seeker's last particular, told back
        self.kind = "detail"  # of the seeker's last turn
        self.tag = ""  # what the supporter's last turn invites
        self.quiet = _writes_small(ask)
        self.talkative = _talkativeness(ask)

    def seeker(self, number: int, last: bool, resists: bool) -> dict[str, Any]:
        scene, slots, rng = self.scene, self.scene.slots, self.scene.rng
        if number:
            scene.draw("detail", "time", "when")
            if rng.random() < 0.6:
                scene.draw("feel", "feel2")
        bank = scene.bank.seeker
        if number == 0:
            template = scene.pick(bank["first"])
        elif last:
            template = scene.pick(bank["last"])
        elif resists:
            template = scene.pick(bank["resist"])
        elif self.tag in scene.bank.answers:
            template = scene.pick(scene.bank.answers[self.tag])
        else:
            kind = ("detail", "detail", "fear", "detail", "wish")[int(rng.random() * 5)]
            if kind != "detail":
                scene.draw(kind)
            template = scene.pick(bank[kind])
        self.echo = self._told_back(template)
        text = template.fill(slots, rng)
        self.kind = kind_of_turn(text, first=number == 0)
        turn: dict[str, Any] = {"speaker": "seeker", "text": text.lower() if self.quiet else text}
        if resists and number and not last:
            turn["tags"] = ["resistance"]
        return turn

    def supporter(self, strategy: str, last: bool) -> dict[str, Any]:
        scene, rng = self.scene, self.scene.rng
        scene.draw("step", "step2", "fact", "care", "care2")
        kin = kin_of(strategy, self.ask.strategies.get(strategy, ""))
        slots = listener_slots(scene.slots, self.echo, strategy)
        bank = scene.bank.supporter
        template = scene.pick(bank[kin])
        text, self.tag = template.fill(slots, rng), template.tag
        if "{echo}" not in template.source and rng.random() < BRIDGE:
            text = scene.pick(bank["bridges"]).fill(slots, rng) + " " + text
        elif rng.random() < self.talkative * 0.5:
            text = scene.pick(bank["openers"]).fill(slots, rng) + " " + text
        if rng.random() < REPLY:
            text = scene.pick(scene.bank.replies[self.kind]).fill(slots, rng) + " " + text
        if not self.tag and not last and rng.random() < self.talkative:
            closer = scene.pick(bank["closers"])
            text, self.tag = text + " " + closer.fill(slots, rng), closer.tag
        return {"speaker": "supporter", "text": text, "strategy": strategy}

    def _told_back(self, template: Template) -> str:
        """The particular that this seeker turn tells, as a clause addressed to the seeker."""
        slots, source = self.scene.slots, template.source
        for name in ("detail", "fear", "event", "body"):
            if "{" + name + "}" in source:
                return told_back(slots[name])
        if "{wish}" in source:
            return "you want to " + told_back(slots["wish"])
        if "{step}" in source:
            return "you could " + told_back(slots["step"])
        return told_back(slots["event"])


def listener_slots(slots: dict[str, str], echo: str, strategy: str) -> dict[str, str]:
    """The slots as the supporter says them."""
    told = {
        name: told_back(slots[name])
        for name in ("who", "thing", "fear", "wish", "step", "step2", "helper", "care", "care2", "time", "when")
    }
    return {**slots, **told, "echo": echo, "strategy": strategy.replace("-", " ").replace("_", " ")}


def _situation(scene: Scene, ask: Ask) -> str:
    third = {name: told_about(text) for name, text in scene.slots.items()}
    template = scene.rng.choice(scene.bank.situations)
    return sentence_case(template.fill(third, scene.rng))


def _length(asked: int, rng: random.Random) -> int:
    """About as many utterances as asked; 10 to 20 where at least 12 are asked."""
    if asked < 12:
        return max(2, asked)
    return min(max(asked + rng.choice((-2, -1, 0, 0, 1, 2)), 10), max(20, asked))


def _plan(count: int, ask: Ask, rng: random.Random) -> list[str]:
    """A strategy for each supporter turn: the wanted ones, the rest evenly from all, in a sensible order."""
    known = list(ask.strategies or DEFAULT_STRATEGIES)
    chosen = list(dict.fromkeys(ask.wanted))[:count]
    pool: list[str] = []
    while len(chosen) < count:
        if not pool:
            pool = [name for name in known if name not in chosen] or list(known)
            rng.shuffle(pool)
        chosen.append(pool.pop())
    keyed = [
        (PHASE.get(kin_of(name, ask.strategies.get(name, "")), 0.5) + rng.uniform(-0.4, 0.4), name) for name in chosen
    ]
    plan = [name for _, name in sorted(keyed)]
    wanted = set(ask.wanted)
    for index in range(1, count):
        if rng.random() < REPEAT and plan[index] not in wanted:
            plan[index] = plan[index - 1]
    return plan


def _writes_small(ask: Ask) -> bool:
    """Does the hint ask for lower case, or do all exemplars' seekers write without capitals?"""
    if "lower case" in ask.hint:
        return True
    texts = [
        str(turn.get("text", ""))
        for exemplar in ask.exemplars
        for turn in exemplar["turns"][:3]
        if isinstance(turn, dict) and turn.get("speaker") == "seeker"
    ]
    return bool(texts) and all(text == text.lower() for text in texts)


def _talkativeness(ask: Ask) -> float:
    """How readily a supporter adds a sentence: longer exemplars, longer turns."""
    lengths = [
        len(str(turn.get("text", "")).split())
        for exemplar in ask.exemplars
        for turn in exemplar["turns"]
        if isinstance(turn, dict) and turn.get("speaker") == "supporter"
    ]
    if not lengths:
        return 0.45
    return min(max(sum(lengths) / len(lengths) / 50, 0.25), 0.7)
