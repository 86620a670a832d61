"""Prompts: text templates with `$names`, rendered to chat messages.

The lines that start with "Scenario:", "Use these strategies:", "Number of utterances:", "Example dialogue N:",
"Dialogue so far:", "Next seeker turn:", "Write N alternative supporter responses" and "Strategies:" are read by the
offline teacher, so they keep their form; everything around them is free. A user's folder may replace any template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from string import Template

from extes_train.dialogue.schema import SEEKER, Dialogue
from extes_train.dialogue.taxonomy import Taxonomy
from extes_train.errors import ConfigError, did_you_mean

Messages = list[dict[str, str]]

SHIPPED = Path(__file__).resolve().parent / "prompts"
NAMES = {
    "system": {"domain", "strategies"},
    "expansion": {
        *("scenario_line", "scenario_definition", "situation_hint", "strategies", "resistance", "turns", "exemplars"),
    },
    "inpaint_turn": {
        *("scenario_line", "situation", "history", "next_line", "count", "strategy_line", "fit"),
        *("verbalized", "probability_key"),
    },
    "inpaint_dialogue": {
        *("scenario_line", "situation", "history", "turn_numbers", "count", "strategy_line", "verbalized"),
        "probability_key",
    },
}
_NEEDED = {
    "system": set[str](),
    "expansion": {"scenario_line", "exemplars"},
    "inpaint_turn": {"history", "count"},
    "inpaint_dialogue": {"history", "turn_numbers", "count"},
}  # without these a record would say of itself what no teacher was told
_ALL = "any of the list above"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A dialogue shown in a prompt: its id and its text."""

    id: str
    text: str


@dataclass(frozen=True)
class Prompts:
    """The templates of one run, with the domain's taxonomy. `digest` covers all of their text."""

    templates: dict[str, Template]
    taxonomy: Taxonomy
    digest: str
    system: str

    def messages(self, user: str) -> Messages:
        """The chat that asks for `user`."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    def scenario_line(self, scenario: str) -> str:
        """`"<id> — <title>"`."""
        known = self.taxonomy.scenarios.get(scenario)
        return f"{scenario} — {known.title}" if known else scenario or "any"

    def expansion(
        self,
        scenario: str,
        hint: str,
        strategies: Sequence[str],
        resistance: bool,
        turns: int,
        exemplars: Sequence[Exemplar],
    ) -> Messages:
        """The chat that asks for one new dialogue."""
        known = self.taxonomy.scenarios.get(scenario)
        shown = [f"Example dialogue {n}:\n{d.text}" for n, d in enumerate(exemplars, start=1)]
        user = self.templates["expansion"].substitute(
            scenario_line=self.scenario_line(scenario),
            scenario_definition=known.definition if known and known.definition else "-",
            situation_hint=hint,
            strategies=", ".join(strategies) or _ALL,
            resistance="the seeker resists, hesitates or disagrees at least once" if resistance else "as it comes",
            turns=turns,
            exemplars="\n\n".join(shown),
        )
        return self.messages(user)

    def inpaint_turn(
        self,
        dialogue: Dialogue,
        turn: int,
        count: int,
        strategy_line: str,
        right_context: bool,
        verbalized: bool,
    ) -> Messages:
        """The chat that asks for `count` alternatives to `dialogue.turns[turn]`."""
        following = dialogue.turns[turn + 1 : turn + 2]
        shown = right_context and following and following[0].speaker == SEEKER
        user = self.templates["inpaint_turn"].substitute(
            scenario_line=self.scenario_line(dialogue.scenario),
            situation=(right_context and dialogue.situation) or "-",  # a student does not see it
            history=_history(dialogue, 0, turn),
            next_line=f"Next seeker turn: {_one_line(following[0].text)}\n" if shown else "",
            count=count,
            strategy_line=strategy_line,
            fit=" and the next seeker turn" if shown else "",
            **_verbalized(verbalized),
        )
        return self.messages(user)

    def inpaint_dialogue(
        self, dialogue: Dialogue, turns: Sequence[int], count: int, strategy_line: str, verbalized: bool
    ) -> Messages:
        """The chat that asks for `count` alternatives to each of `dialogue.turns[i]`, i in `turns`.

        Where the strategies are held, each supporter turn is shown with its own.
        """
        user = self.templates["inpaint_dialogue"].substitute(
            scenario_line=self.scenario_line(dialogue.scenario),
            situation=dialogue.situation or "-",
            history=_history(dialogue, 0, len(dialogue.turns), numbered=True, labelled=strategy_line == "held"),
            turn_numbers=", ".join(map(str, turns)),
            count=count,
            strategy_line=strategy_line,
            **_verbalized(verbalized),
        )
        return self.messages(user)


def load_prompts(folder: str | None, taxonomy: Taxonomy) -> Prompts:
    """The shipped templates, with those of `folder` in their place. Raises ConfigError for an unknown name in one,
    and where a name is missing without which the teacher would not know what it is asked for."""
    texts = {name: (SHIPPED / f"{name}.txt").read_text(encoding="utf-8") for name in NAMES}
    if folder is not None:
        texts.update(_own(Path(folder)))
    templates = {name: Template(text) for name, text in texts.items()}
    for name, template in templates.items():
        _check(name, template)
    listed = "\n".join(f"- {s.id}: {s.definition or s.title}" for s in taxonomy.strategies.values())
    system = templates["system"].substitute(domain=_domain(taxonomy), strategies=listed or "- any").strip()
    digest = hashlib.sha256(json.dumps([texts, system], sort_keys=True).encode()).hexdigest()[:16]
    return Prompts(templates, taxonomy, digest, system)


def prompt_sha256(messages: Messages) -> str:
    """SHA-256 over the messages of a prompt, as it stands in a record's provenance."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message["role"].encode() + b"\0" + message["content"].encode() + b"\0")
    return digest.hexdigest()


def make_exemplar(dialogue: Dialogue) -> Exemplar:
    """`dialogue` as prompts show it: scenario, situation and turns as JSON on one line."""
    quoted = encode_basestring  # json.dumps(…, ensure_ascii=False) by hand: this runs for every accepted dialogue
    turns = []
    for turn in dialogue.turns:
        shown = f'{{"speaker": {quoted(turn.speaker)}, "text": {quoted(turn.text)}'
        if turn.strategy is not None:
            shown += f', "strategy": {quoted(turn.strategy)}'
        if turn.tags:
            shown += f', "tags": [{", ".join(map(quoted, turn.tags))}]'
        turns.append(shown + "}")
    head = f'{{"scenario": {quoted(dialogue.scenario)}, "situation": {quoted(dialogue.situation)}'
    return Exemplar(dialogue.id, f'{head}, "turns": [{", ".join(turns)}]}}')


def _history(dialogue: Dialogue, start: int, stop: int, numbered: bool = False, labelled: bool = False) -> str:
    lines = []
    for i in range(start, stop):
        turn = dialogue.turns[i]
        label = f"[{i}] {turn.speaker}" if numbered else turn.speaker
        if labelled and turn.strategy is not None:
            label += f" ({turn.strategy})"
        lines.append(f"{label}: {_one_line(turn.text)}")
    return "\n".join(lines) or "(the dialogue starts here)"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _verbalized(verbalized: bool) -> dict[str, str]:
    if not verbalized:
        return {"verbalized": "", "probability_key": ""}
    sentence = (
        " Give each response the probability that a supporter would answer so; sample from the whole distribution,"
        " the unlikely responses included."
    )
    return {"verbalized": sentence, "probability_key": ', "probability": 0.1'}


def _own(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise ConfigError(f"prompts={folder}: no such folder")
    texts = {}
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in NAMES:
            known = ", ".join(f"{name}.txt" for name in NAMES)
            hint = did_you_mean(path.stem, list(NAMES))
            raise ConfigError(f"{path}: no template has this name{hint}; names: {known}")
        try:
            texts[path.stem] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from error
    if not texts:
        raise ConfigError(f"prompts={folder}: holds no template; names: {', '.join(f'{n}.txt' for n in NAMES)}")
    return texts


def _check(name: str, template: Template) -> None:
    used = set()
    for match in template.pattern.finditer(template.template):
        if match.group("invalid") is not None:
            raise ConfigError(f"prompts: {name}.txt: a $ that starts no name; write $$ for a dollar sign")
        word = match.group("named") or match.group("braced")
        if word is not None and word not in NAMES[name]:
            known = ", ".join(f"${n}" for n in sorted(NAMES[name]))
            raise ConfigError(f"prompts: {name}.txt: ${word} is unknown; the template may use {known}")
        used.add(word)
    if missing := sorted(_NEEDED[name] - used):
        raise ConfigError(f"prompts: {name}.txt: must hold {' and '.join(f'${n}' for n in missing)}")


def _domain(taxonomy: Taxonomy) -> str:
    return {"extes": "emotional support", "esconv": "emotional support"}.get(taxonomy.name, taxonomy.name)
