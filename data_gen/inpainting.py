"""Diverse Response Inpainting: what is asked for which turn, and what of the reply is kept.

Every turn is judged by itself: original, alternatives that are there already, and the reply's candidates. Nothing here
depends on other turns' replies, so any order gives the same result.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_gen.config import InpaintConfig, TeacherConfig
from data_gen.diversity import DiversityMeasures, Response, choose, consistency
from data_gen.embedding import SentenceModel
from data_gen.expansion import candidate_seed
from data_gen.filters.chain import FINISH_REASONS, QUARANTINED, check_response_text, read_strategy, unwritable
from data_gen.filters.text import TextView
from data_gen.hindsight import hindsight
from data_gen.journal import Span
from data_gen.progress import Status
from data_gen.prompting import Messages, Prompts
from data_gen.targets import parse_shard
from data_gen.teacher.client import Completion
from extes_train.dialogue.schema import SEEKER, SUPPORTER, Dialogue

TOKENS_PER_RESPONSE = 120
MOST_CANDIDATES = 4  # looked at, per candidate asked for

Record = dict[str, Any]


@dataclass(slots=True)
class Masked:
    """One request: the supporter turns of a dialogue that it asks for."""

    index: int
    dialogue: Dialogue
    turns: list[int]
    seed: int


class Inpainting:
    """`window.Work` over the supporter turns of `dialogues`; the spans of the replies are in `spans`, by item."""

    def __init__(
        self,
        config: InpaintConfig,
        teacher: TeacherConfig,
        prompts: Prompts,
        dialogues: list[Dialogue],
        embedding: SentenceModel | None = None,
    ) -> None:
        self.config, self.teacher, self.prompts, self.taxonomy = config, teacher, prompts, prompts.taxonomy
        self.embedding = embedding
        shard, shards = parse_shard("inpaint.shard", config.shard)
        self.dialogues = [d for i, d in enumerate(dialogues) if i % shards == shard]
        self.count = math.ceil(config.num_alternatives * config.oversample)
        self.schema = inpaint_schema(self)
        self.sees_right = config.context == "both" or config.scope == "dialogue"
        self.items = self._items()
        lengths = [self.max_tokens(item) or 0 for item in self._items()]
        self.longest_reply: int | None = max(lengths, default=0) or None
        self.total_items = sum(1 for _ in self._items())
        self.total_turns = sum(len(item.turns) for item in self._items())
        self.planned = self.committed = 0
        self.turns_done = 0
        self.asked = self.kept = 0
        self.reasons: Counter[str] = Counter()
        self.prompt_tokens = self.completion_tokens = 0
        self.diversity = DiversityMeasures()
        self.spans: dict[int, Span] = {}
        self.written_sides: list[str] = []

    def wanted(self, dialogue: Dialogue) -> bool:
        """True for a dialogue of the sides to inpaint; one without a side counts as one of them."""
        side = dialogue.provenance.get("side")
        return side is None or side in self.config.sides

    @property
    def done(self) -> bool:
        return self.committed >= self.total_items

    def plan(self) -> list[Masked]:
        found = []
        while self.planned < min(self.committed + self.config.lag, self.total_items):
            found.append(next(self.items))
            self.planned += 1
        return found

    def messages(self, item: Masked) -> Messages:
        config = self.config
        if config.scope == "dialogue":
            line = self._strategy_line(item, None)
            return self.prompts.inpaint_dialogue(item.dialogue, item.turns, self.count, line, config.verbalized)
        turn = item.turns[0]
        line = self._strategy_line(item, item.dialogue.turns[turn].strategy)
        right = config.context == "both"
        return self.prompts.inpaint_turn(item.dialogue, turn, self.count, line, right, config.verbalized)

    def max_tokens(self, item: Masked) -> int | None:
        """Room for every response of a whole dialogue."""
        if self.config.scope == "turn":
            return None
        return max(self.teacher.max_tokens, TOKENS_PER_RESPONSE * self.count * len(item.turns))

    def judge(self, item: Masked, prompt: str, completion: Completion) -> tuple[Record, Record]:
        """Filter and choose; the record is the outcome."""
        record: Record = {
            "dialogue": item.dialogue.id,
            "kept": {},
            "asked": self.count * len(item.turns),
            "tokens": [completion.prompt_tokens, completion.completion_tokens],
            "attempts": completion.attempts,
            "time": round(time.time(), 3),
        }
        reasons: Counter[str] = Counter()
        by_turn = self._by_turn(item, completion)
        if isinstance(by_turn, str):
            reasons[by_turn] = record["asked"]
        else:
            for turn in item.turns:
                self._judge_turn(item, turn, by_turn.get(turn, []), prompt, record, reasons)
        record["reasons"] = {reason: reasons[reason] for reason in sorted(reasons) if reasons[reason]}
        return record, record

    def restore(self, item: Masked, record: Record) -> Record:
        del item
        return record

    def commit(self, item: Masked, outcome: Record, span: Span) -> None:
        self.committed = item.index + 1
        self._count(item, outcome, span)

    def salvage(self, item: Masked, outcome: Record, span: Span) -> None:
        self._count(item, outcome, span)

    def status(self, reused: int = 0) -> Status:
        return Status(
            "inpaint", self.total_turns, self.turns_done, self.committed, "turns", reused, self.reasons, self.kept
        )

    def _count(self, item: Masked, outcome: Record, span: Span) -> None:
        self.spans[item.index] = span
        self.turns_done += len(item.turns)
        self.asked += outcome["asked"]
        self.kept += sum(len(alternatives) for alternatives in outcome["kept"].values())
        self.reasons.update(outcome["reasons"])
        self.prompt_tokens += outcome["tokens"][0]
        self.completion_tokens += outcome["tokens"][1]
        for values in outcome.get("measures", ()):
            self.diversity.add(values)

    def _items(self) -> Iterator[Masked]:
        index = 0
        for dialogue in self.dialogues:
            if not self.wanted(dialogue):
                continue
            turns = [i for i, turn in enumerate(dialogue.turns) if turn.speaker == SUPPORTER]
            for group in [turns] if self.config.scope == "dialogue" else [[turn] for turn in turns]:
                yield Masked(index, dialogue, group, candidate_seed(self.config.seed, self.config.shard, index))
                index += 1

    def _strategy_line(self, item: Masked, original: str | None) -> str:
        """The prompt's "Strategies:" line. `varied` names ids, other than the original's, drawn by the item's seed."""
        mode, known = self.config.strategy, list(self.taxonomy.strategies)
        if mode == "held" and self.config.scope == "dialogue":
            return "held"
        if not known or mode == "free" or (mode == "held" and original is None):
            return "free"
        if mode == "held":
            return f"held {original}"
        others = [strategy for strategy in known if strategy != original]
        drawn = random.Random(item.seed).sample(others, min(self.count, len(others)))
        return f"varied {', '.join(drawn)}"

    def _by_turn(self, item: Masked, completion: Completion) -> dict[int, list[Any]] | str:
        """Turn -> the reply's raw candidates, or the reason why there are none."""
        if completion.finish_reason in FINISH_REASONS:
            return FINISH_REASONS[completion.finish_reason]
        value = completion.parsed
        if value is None:
            return "unreadable"
        if self.config.scope == "turn":
            found = value.get("alternatives") if isinstance(value, dict) else value
            return {item.turns[0]: found} if isinstance(found, list) else "schema"
        entries = value.get("turns") if isinstance(value, dict) else None
        if not isinstance(entries, list):
            return "schema"
        by_turn: dict[int, list[Any]] = {}
        for entry in entries:
            if (
                isinstance(entry, dict)
                and isinstance(entry.get("alternatives"), list)
                and isinstance(entry.get("turn"), int)
            ):
                by_turn.setdefault(entry["turn"], entry["alternatives"])
        return by_turn

    def _judge_turn(
        self, item: Masked, turn: int, raw: list[Any], prompt: str, record: Record, reasons: Counter[str]
    ) -> None:
        """Fill `record` and `reasons` for one turn: every candidate asked for ends in one of them."""
        config, dialogue = self.config, item.dialogue
        target = dialogue.turns[turn]
        original = Response(target.text, target.strategy)
        present = [original, *(Response(a.text, a.strategy) for a in target.alternatives)]
        reasons["missing"] += max(self.count - len(raw), 0)
        record["asked"] += max(len(raw) - self.count, 0)  # a teacher may send more than it was asked for
        passed: list[Response] = []
        most = MOST_CANDIDATES * self.count
        reasons["surplus"] += max(len(raw) - most, 0)
        for value in raw[:most]:
            found = self._candidate(item, turn, value, original)
            if isinstance(found, str):
                reasons[found] += 1
                if found in QUARANTINED:
                    quarantined = {"text": value["text"].strip(), "reason": found}
                    record.setdefault("quarantined", {}).setdefault(str(turn), []).append(quarantined)
            else:
                passed.append(found)
        following = self._following(item, turn)
        self._embed([*present, *passed, *([following] if following else [])])
        for response in passed:
            response.consistency = consistency(response, original, following)
        good = [response for response in passed if response.consistency >= config.min_consistency]
        reasons["inconsistent"] += len(passed) - len(good)
        choice = choose(good, present, config.num_alternatives, config.max_similarity, config.strategy == "varied")
        reasons.update(choice.reasons)
        if choice.kept:
            record["kept"][str(turn)] = [self._alternative(response, item, prompt) for response in choice.kept]
            record.setdefault("measures", []).append(self.diversity.measure([*present, *choice.kept]))

    def _candidate(self, item: Masked, turn: int, value: Any, original: Response) -> Response | str:
        """One candidate of a reply, or the reason why it is none."""
        config, turns = self.config, item.dialogue.turns
        if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not value["text"].strip():
            return "schema"
        text = value["text"].strip()
        if unwritable(text):
            return "schema"
        strategy = read_strategy(value.get("strategy"), self.taxonomy)
        if strategy is None and (self.taxonomy.strategies or value.get("strategy") is not None):
            return "strategy"
        if config.strategy == "held" and original.strategy is not None and strategy != original.strategy:
            return "not_held"
        rejected = check_response_text(text, TextView([text]), config.filters)
        if rejected is not None:
            return rejected.reason
        if self.sees_right and hindsight(text, turns[:turn], original.text, turns[turn + 1 :]):
            return "hindsight"
        response = Response(text, strategy)
        probability = value.get("probability")
        if config.verbalized and _is_share(probability):
            response.provenance["probability"] = float(probability or 0)
        return response

    @staticmethod
    def _following(item: Masked, turn: int) -> Response | None:
        """The next seeker turn, where there is one."""
        following = item.dialogue.turns[turn + 1 : turn + 2]
        return Response(following[0].text) if following and following[0].speaker == SEEKER else None

    def _embed(self, responses: list[Response]) -> None:
        if self.embedding is not None:
            for response, vector in zip(responses, self.embedding.vectors([r.text for r in responses])):
                response.vector = vector

    def _alternative(self, response: Response, item: Masked, prompt: str) -> Record:
        provenance = {
            "source": "inpainted",
            "teacher": self.teacher.model,
            "prompt_sha256": prompt,
            "context": "both" if self.sees_right else "left",
            "seed": item.seed,
            **response.provenance,
        }
        strategy = {} if response.strategy is None else {"strategy": response.strategy}
        return {"text": response.text, **strategy, "provenance": provenance}


def inpaint_schema(work: Inpainting) -> dict[str, Any]:
    """JSON schema of a reply, for one turn or for all turns of a dialogue."""
    strategy: dict[str, Any] = {"type": ["string", "null"]}
    if work.taxonomy.strategies and not work.taxonomy.open_strategies:
        strategy = {"type": "string", "enum": list(work.taxonomy.strategies)}
    properties: dict[str, Any] = {"text": {"type": "string"}, "strategy": strategy}
    if work.config.verbalized:
        properties["probability"] = {"type": "number"}
    alternatives = {"type": "array", "items": _object(properties)}
    if work.config.scope == "turn":
        return _object({"alternatives": alternatives})
    entry = _object({"turn": {"type": "integer"}, "alternatives": alternatives})
    return _object({"turns": {"type": "array", "items": entry}})


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
