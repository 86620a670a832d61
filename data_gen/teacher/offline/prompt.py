"""What the composing teacher reads out of chat messages: the machine-readable lines of data_gen's prompts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from data_gen.teacher.structured import MEND

_LINE = re.compile(
    r"^(Scenario|What it is about|Situation hint|Situation|Use these strategies|Seeker resistance|Number of utterances"
    r"|Next seeker turn|Strategies|Masked strategy|Turns to fill)[ \t]*:[ \t]*(.*)$",
    re.M,
)
_STRATEGY = re.compile(r"^[-*]\s+([\w.&/+-]+)(?:\s+\(([^)\n]*)\))?\s*:\s*(.*)$", re.M)
_WRITE = re.compile(r"\bwrite (\d+) (?:\w+ ){0,3}alternative", re.I)
_EXAMPLE = re.compile(r"^Example dialogue\b[^\n]*$", re.M)
_SPOKEN = re.compile(r"^(?:\[?(\d+)\]?[.:)]?\s+)?(seeker|supporter)(?:\s*[\[(]([\w-]+)[\])])?:[ \t]*(.*)$", re.M)
_SO_FAR = re.compile(r"^Dialogue(?: so far)?:[ \t]*$", re.M)


@dataclass
class Ask:
    """One request, understood. `kind`: expand, turn, dialogue, or chat where no contract line was found."""

    kind: str
    text: str
    scenario: str = ""
    title: str = ""
    definition: str = ""  # of the scenario
    hint: str = ""
    resists: bool = False  # is the seeker asked to resist
    wanted: list[str] = field(default_factory=list)  # strategies to use
    strategies: dict[str, str] = field(default_factory=dict)  # id -> definition
    utterances: int = 16
    exemplars: list[dict[str, Any]] = field(default_factory=list)
    turns: list[tuple[int, str, str, str]] = field(default_factory=list)  # number, speaker, strategy, text
    next_turn: str = ""
    count: int = 4
    mode: str = "free"  # free | held | varied, or a list of ids in `wanted`
    masked: str = ""  # strategy of the turn to write for
    probabilities: bool = False
    fill: list[int] = field(default_factory=list)  # turns to fill, by number


def read_ask(messages: list[dict[str, Any]]) -> Ask:
    """Understand the conversation. A request to mend an earlier reply repeats the earlier request."""
    parts = [_text(message) for message in messages if message.get("role") != "assistant"]
    text = "\n".join(part for part in parts if part.strip() != MEND)
    examples = _EXAMPLE.search(text)
    lines: dict[str, str] = {}
    for match in _LINE.finditer(text):
        lines[match.group(1)] = match.group(2).strip()
    so_far = _SO_FAR.search(text)
    write = _WRITE.search(text)
    if write and so_far:
        kind = "dialogue" if "Turns to fill" in lines else "turn"
    elif "Number of utterances" in lines or ("Scenario" in lines and not so_far):
        kind = "expand"
    else:
        return Ask("chat", text)
    ask = Ask(kind, text, hint=lines.get("Situation hint", lines.get("Situation", "")))
    ask.definition = lines.get("What it is about", "")
    ask.resists = lines.get("Seeker resistance", "").startswith("the seeker resists")
    _scenario(ask, lines.get("Scenario", ""))
    listed = text.find("Support strategies")
    if listed >= 0:
        end = text.find("\n\n", listed)
        found = _STRATEGY.finditer(text, listed, end if end >= 0 else len(text))
        ask.strategies = {m.group(1): m.group(3).strip() for m in found}
    ask.wanted = _ids(lines.get("Use these strategies", ""), ask.strategies)
    number = re.match(r"\d+", lines.get("Number of utterances", ""))
    ask.utterances = int(number.group()) if number else 16
    if kind == "expand":
        if examples:
            ask.exemplars = _exemplars(text, examples.start())
        return ask
    assert so_far is not None and write is not None
    ask.count = max(1, int(write.group(1)))
    ask.next_turn = lines.get("Next seeker turn", "")
    ask.probabilities = "probabilit" in text.lower()
    _mode(ask, lines.get("Strategies") or "free", lines.get("Masked strategy", ""))
    ask.fill = [int(number) for number in re.findall(r"\d+", lines.get("Turns to fill", ""))]
    for index, match in enumerate(_SPOKEN.finditer(text, so_far.end(), write.start())):
        given, said = int(match.group(1)) if match.group(1) else index, match.group(4).strip()
        if said != "[masked]":
            ask.turns.append((given, match.group(2), match.group(3) or "", said))
    return ask


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):  # the parts of a multi-part message
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _scenario(ask: Ask, line: str) -> None:
    identifier, _, title = line.partition("—")
    if not title:
        identifier, _, title = line.partition(" - ")
    ask.scenario, ask.title = identifier.strip(), title.strip()


def _mode(ask: Ask, line: str, masked: str) -> None:
    words = line.replace(",", " ").split()
    ask.mode = words[0].lower() if words and words[0].lower() in ("free", "held", "varied") else "listed"
    ask.wanted = _ids(line, ask.strategies) or ask.wanted
    if ask.mode == "held" and not ask.wanted:
        ask.wanted = _ids(masked, ask.strategies)
    ask.masked = masked.strip()


def _ids(line: str, known: dict[str, str]) -> list[str]:
    found = [word.strip(" .;") for word in re.split(r"[,\s]+", line) if word.strip(" .;")]
    return [word for word in found if word in known] if known else [word for word in found if "-" in word]


def _exemplars(text: str, start: int) -> list[dict[str, Any]]:
    """The JSON objects after each "Example dialogue N:" line."""
    decoder, result = json.JSONDecoder(), []
    for match in _EXAMPLE.finditer(text, start):
        brace = text.find("{", match.end())
        if brace < 0:
            break
        try:
            value, _ = decoder.raw_decode(text, brace)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("turns"), list):
            result.append(value)
    return result
