"""The banks of situations and phrases, read once from YAML."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.teacher.offline.text import Template

FOLDER = Path(__file__).with_name("banks")

# Which phrases serve a strategy of another taxonomy: the first pattern found in its id, then in its definition.
KINSHIP = (
    ("self-disclosure", r"self.?disclos|of one's own|own experience"),
    ("reflective-statements", r"reflect(?!ion of feel)|paraphras|restat|mirror|summar"),
    ("emotional-validation", r"validat|reflection of feel|name the|acknowledg"),
    ("normalize-experiences", r"normali[sz]|others (?:feel|do)|common"),
    ("empathetic-statements", r"empath|sympath|compassion"),
    ("clarification", r"question|clarif|ask|prob(?:e|ing)|inquir"),
    ("affirmation", r"affirm|reassur|encourag|praise|compliment|strength"),
    ("offer-hope", r"hope|optimis"),
    ("avoid-judgment-and-criticism", r"judg|blame|critic"),
    ("collaborative-planning", r"plan|goal|together|next step"),
    ("suggest-options", r"suggest|option|advice|advis|recommend|offer|propos"),
    ("reframe-negative-thoughts", r"refram|negative thought|harsh"),
    ("provide-different-perspectives", r"perspective|another way|viewpoint|look at"),
    ("share-information", r"inform|fact|explain|explanation|example|teach|hint"),
    ("promote-self-care-practices", r"self.?care|rest|sleep"),
    ("stress-management", r"stress|calm|relax|breath|apolog"),
    ("others", r"^others?$|greet|small talk|thank"),
)


@dataclass(frozen=True)
class Theme:
    """What can happen in one scenario. Texts are in the first person, without capitals or final stops."""

    feel: tuple[str, ...]
    events: tuple[tuple[str, str, str], ...]  # who, thing, clause
    details: tuple[str, ...]
    fears: tuple[str, ...]
    wishes: tuple[str, ...]
    steps: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Bank:
    """Everything the composer draws from."""

    themes: dict[str, Theme]
    generic: dict[str, Any]
    common: dict[str, tuple[str, ...]]
    situations: tuple[Template, ...]
    supporter: dict[str, tuple[Template, ...]]
    seeker: dict[str, tuple[Template, ...]]
    answers: dict[str, tuple[Template, ...]]
    replies: dict[str, tuple[Template, ...]]  # how a reply begins, by the kind of turn it replies to


@functools.lru_cache(maxsize=1)
def load_bank() -> Bank:
    """Read all banks; about 0.1 s, once a process."""
    common, supporter, seeker = _read("common"), _read("supporter"), _read("seeker")
    themes = {}
    for path in sorted(FOLDER.glob("scenarios-*.yaml")):
        themes.update({name: _theme(value) for name, value in _read(path.stem).items()})
    answers, replies = seeker.pop("answers"), supporter.pop("replies")
    generic, situations = common.pop("generic"), common.pop("situations")
    return Bank(
        themes=themes,
        generic=generic,
        common={name: tuple(value) for name, value in common.items()},
        situations=_templates(situations),
        supporter={name: _templates(value) for name, value in supporter.items()},
        seeker={name: _templates(value) for name, value in seeker.items()},
        answers={name: _templates(value) for name, value in answers.items()},
        replies={name: _templates(value) for name, value in replies.items()},
    )


def theme_for(scenario: str, title: str, definition: str) -> Theme:
    """The scenario's own bank; for an unknown one a generic bank about its title and definition."""
    bank = load_bank()
    found = bank.themes.get(scenario)
    return found if found is not None else _generic_theme(title or scenario.replace("-", " "), definition)


@functools.lru_cache(maxsize=1024)
def kin_of(strategy: str, definition: str = "") -> str:
    """The phrase bank that serves a strategy of any taxonomy; `generic` where nothing fits."""
    if strategy in load_bank().supporter and strategy not in ("openers", "closers", "generic"):
        return strategy
    for text in (strategy.replace("-", " ").replace("_", " ").lower(), definition.lower()):
        for name, pattern in KINSHIP:
            if re.search(pattern, text):
                return name
    return "generic"


@functools.lru_cache(maxsize=1024)
def _generic_theme(title: str, definition: str) -> Theme:
    from data_gen.teacher.offline.text import content_words

    topic = title.strip().lower() or "this"
    words = [word for word in content_words(definition) if word not in topic and word != "seeker"][:8]
    topics = [topic, *(f"{word} and {topic}" for word in words)]
    generic = load_bank().generic

    def spread(name: str) -> tuple[str, ...]:
        return tuple(
            text.replace("{topic}", topics[index % len(topics)])
            for index, text in enumerate(generic[name] * (1 + len(words) // 4))
        )

    events = tuple(
        (who, thing.replace("{topic}", subject), clause.replace("{topic}", subject))
        for subject in topics[:4]
        for who, thing, clause in generic["events"]
    )
    parts = (tuple(dict.fromkeys(spread(name))) for name in ("details", "fears", "wishes", "steps", "facts"))
    return Theme(tuple(generic["feel"]), events, *parts)


def _theme(value: dict[str, Any]) -> Theme:
    return Theme(
        feel=tuple(part.strip() for part in value["feel"].split(",")),
        events=tuple(_event(line) for line in value["events"]),
        **{name: tuple(value[name]) for name in ("details", "fears", "wishes", "steps", "facts")},
    )


def _event(line: str) -> tuple[str, str, str]:
    who, thing, clause = (part.strip() for part in line.split("|"))
    return who, thing, clause


def _templates(lines: list[str]) -> tuple[Template, ...]:
    return tuple(Template(line) for line in lines)


def _read(name: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
