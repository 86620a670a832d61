"""What a data set looks like: counts and the measures of DESIGN.md (Measures), in one pass over its records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Statistics:
    """Counts over dialogues; `measures()` is what the card says."""

    dialogues: int = 0
    sides: Counter[str] = field(default_factory=Counter)
    scenarios: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    rounds: Counter[int] = field(default_factory=Counter)
    utterances: Counter[int] = field(default_factory=Counter)  # of a dialogue
    words: Counter[str] = field(default_factory=Counter)  # by speaker
    turns: Counter[str] = field(default_factory=Counter)  # by speaker
    resisting: int = 0  # dialogues
    followers: int = 0  # supporter turns with a predecessor, both labelled
    repeated: int = 0  # of those, with the predecessor's strategy
    alternatives: int = 0
    alternatives_of_turn: Counter[int] = field(default_factory=Counter)
    alternative_strategies: Counter[str] = field(default_factory=Counter)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record of dialogues.jsonl."""
        self.dialogues += 1
        self.scenarios[record["scenario"]] += 1
        provenance = record.get("provenance", {})
        self.sides[provenance.get("side") or "unknown"] += 1
        if "round" in provenance:
            self.rounds[provenance["round"]] += 1
        self.utterances[len(record["turns"])] += 1
        self.resisting += any("resistance" in turn.get("tags", ()) for turn in record["turns"])
        previous = None
        for turn in record["turns"]:
            self.turns[turn["speaker"]] += 1
            self.words[turn["speaker"]] += len(turn["text"].split())
            if turn["speaker"] == "supporter":
                previous = self._supporter(turn, previous)

    def _supporter(self, turn: Mapping[str, Any], previous: str | None) -> str | None:
        strategy = turn.get("strategy")
        if strategy is not None:
            self.strategies[strategy] += 1
            if previous is not None:
                self.followers += 1
                self.repeated += strategy == previous
        others = turn.get("alternatives", ())
        self.alternatives += len(others)
        self.alternatives_of_turn[len(others)] += 1
        self.alternative_strategies.update(a["strategy"] for a in others if a.get("strategy"))
        return strategy

    def measures(self) -> dict[str, Any]:
        """Entropy in bits, shares from 0 to 1, means."""
        utterances = sum(self.turns.values())
        return {
            "dialogues": self.dialogues,
            "utterances": utterances,
            "supporter_turns": self.turns["supporter"],
            "utterances_per_dialogue": _mean(utterances, self.dialogues),
            "words_per_seeker_turn": _mean(self.words["seeker"], self.turns["seeker"]),
            "words_per_supporter_turn": _mean(self.words["supporter"], self.turns["supporter"]),
            "strategy_entropy_bits": round(entropy_bits(self.strategies), 4),
            "scenario_entropy_bits": round(entropy_bits(self.scenarios), 4),
            "strategy_repetition": _mean(self.repeated, self.followers),
            "resistance_share": _mean(self.resisting, self.dialogues),
            "alternatives": self.alternatives,
            "alternatives_per_supporter_turn": _mean(self.alternatives, self.turns["supporter"]),
        }


def statistics_of(records: Iterable[Mapping[str, Any]]) -> Statistics:
    """The statistics of an iterable of records."""
    found = Statistics()
    for record in records:
        found.add(record)
    return found


def entropy_bits(counts: Mapping[Any, int]) -> float:
    """Shannon entropy of the distribution, in bits."""
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values() if n) if total else 0.0


def _mean(total: float, count: int) -> float:
    return round(total / count, 4) if count else 0.0
