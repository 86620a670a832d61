"""Seeds in, a dataset out: the run of iterative expansion, from configuration to card."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_gen.card import write_generation_card
from data_gen.config import GenerateConfig, TeacherConfig
from data_gen.dedup import Shingles, shingle_hashes
from data_gen.expansion import Candidate, Expansion
from data_gen.filters.chain import (
    FINISH_REASONS,
    QUARANTINED,
    Rejection,
    check_dialogue_text,
    check_filters,
    read_reply,
)
from data_gen.filters.text import TextView
from data_gen.journal import NAME, Journal, Span, Spans
from data_gen.output import write_jsonl
from data_gen.progress import Progress, Status
from data_gen.prompting import load_prompts, make_exemplar
from data_gen.seed_dialogues import read_seeds
from data_gen.stopping import stopped_by_sigterm
from data_gen.teacher.client import Completion
from data_gen.teacher_run import ask_teacher, taxonomy_digest, teacher_settings
from data_gen.tracking import OpenFeed, RunTracker
from data_gen.window import Window
from extes_train.dialogue.files import digest_of
from extes_train.dialogue.schema import SIDES, Dialogue, dialogue_from_dict, dialogue_to_dict
from extes_train.dialogue.taxonomy import Taxonomy, load_taxonomy
from extes_train.errors import BudgetReached, Interrupted

FREE_KEYS = ("out", "seeds", "prompts", "taxonomy", "mode", "batch_poll_s", "fsync_every")  # may differ on resuming


@dataclass(slots=True)
class Outcome:
    """A reply, judged by itself."""

    reason: str | None
    dialogue: Dialogue | None
    shingles: Shingles
    prompt_tokens: int
    completion_tokens: int


@dataclass
class GenerateResult:
    """What a run left in its folder."""

    out: Path
    accepted: int
    sides: dict[str, int]
    candidates: int
    reasons: dict[str, int]
    stopped: str  # size | max_candidates | acceptance | novelty | budget
    message: str
    card: dict[str, Any]


class Generation:
    """Expansion as `window.Work`: prompts, judgements, and where the accepted records lie in the journal."""

    def __init__(self, config: GenerateConfig, teacher: TeacherConfig, expansion: Expansion) -> None:
        self.config, self.teacher, self.expansion = config, teacher, expansion
        self.schema = expansion_schema(expansion.taxonomy)
        self.longest_reply: int | None = None
        self.accepted = Spans()
        self.quarantined: list[tuple[Span, str]] = []
        self.prompt_tokens = self.completion_tokens = 0
        self.messages = expansion.messages
        self.plan = expansion.plan

    @property
    def done(self) -> bool:
        return self.expansion.done

    def max_tokens(self, item: Candidate) -> int | None:
        return None

    def judge(self, item: Candidate, prompt: str, completion: Completion) -> tuple[dict[str, Any], Outcome]:
        found, view = self._read(item, completion)
        rejected = found if isinstance(found, Rejection) else check_dialogue_text(found, view, self.config.filters)
        record: dict[str, Any] = {
            "side": item.side,
            "scenario": item.scenario,
            "exemplars": item.exemplar_ids,
            "tokens": [completion.prompt_tokens, completion.completion_tokens],
            "attempts": completion.attempts,
            "time": round(time.time(), 3),
        }
        if rejected is not None:
            record["reason"], record["detail"] = rejected.reason, _clean(rejected.detail)
        dialogue = None
        if not isinstance(found, Rejection) and (rejected is None or rejected.reason in QUARANTINED):
            dialogue = found
            dialogue.provenance = self._provenance(item, prompt)
            record["dialogue"] = dialogue_to_dict(dialogue)
        shingles = shingle_hashes(view)
        reason = None if rejected is None else rejected.reason
        return record, Outcome(reason, dialogue, shingles, completion.prompt_tokens, completion.completion_tokens)

    def restore(self, item: Candidate, record: dict[str, Any]) -> Outcome:
        dialogue, shingles = None, shingle_hashes(TextView([]))
        if "dialogue" in record:
            dialogue = dialogue_from_dict(record["dialogue"], f"{NAME}: record {item.index}")
            if "reason" not in record:
                shingles = shingle_hashes(TextView([turn.text for turn in dialogue.turns]))
        return Outcome(record.get("reason"), dialogue, shingles, *record["tokens"])

    def commit(self, item: Candidate, outcome: Outcome, span: Span) -> dict[str, Any] | None:
        self.prompt_tokens += outcome.prompt_tokens
        self.completion_tokens += outcome.completion_tokens
        reason, of = self.expansion.commit(item, outcome.reason, outcome.dialogue, outcome.shingles)
        if reason is None:
            self.accepted.append(span)
        elif reason in QUARANTINED:
            self.quarantined.append((span, reason))
        if outcome.reason is not None:
            return None
        return {"verdict": "accepted"} if reason is None else {"verdict": reason, "of": of}

    def salvage(self, item: Candidate, outcome: Outcome, span: Span) -> None:
        self.expansion.committed = item.index
        self.commit(item, outcome, span)

    def status(self, reused: int = 0) -> Status:
        state = self.expansion
        return Status(
            "generate",
            state.size,
            state.accepted.total(),
            state.committed,
            reused=reused,
            reasons=state.reasons,
            acceptance_of_rounds=[r.acceptance for r in state.rounds if r.candidates == self.config.round_size],
        )

    def _read(self, item: Candidate, completion: Completion) -> tuple[Dialogue | Rejection, TextView]:
        if completion.finish_reason in FINISH_REASONS:
            return Rejection(FINISH_REASONS[completion.finish_reason], completion.text[:80]), TextView([])
        if completion.parsed is None:
            return Rejection("unreadable", completion.text[:80]), TextView([])
        found = read_reply(completion.parsed, item.scenario, self.expansion.taxonomy)
        if isinstance(found, Rejection):
            return found, TextView([])
        return found, TextView([turn.text for turn in found.turns])

    def _provenance(self, item: Candidate, prompt: str) -> dict[str, Any]:
        return {
            "source": "generated",
            "teacher": self.teacher.model,
            "prompt_sha256": prompt,
            "exemplars": item.exemplar_ids,
            "round": item.round,
            "seed": item.seed,
            "side": item.side,
            "shard": self.config.shard,
            "candidate": item.index,
            "strategies_asked": item.strategies,
        }


def expansion_schema(taxonomy: Taxonomy) -> dict[str, Any]:
    """JSON schema of a reply: {"situation", "turns": [{"speaker", "text", "strategy", "tags"}]}."""
    strategy: dict[str, Any] = {"type": ["string", "null"]}
    if taxonomy.strategies and not taxonomy.open_strategies:
        strategy["enum"] = [*taxonomy.strategies, None]
    properties = {
        "speaker": {"type": "string", "enum": ["seeker", "supporter"]},
        "text": {"type": "string"},
        "strategy": strategy,
        "tags": {"type": "array", "items": {"type": "string"}},
    }
    turn = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"situation": {"type": "string"}, "turns": {"type": "array", "items": turn}},
        "required": ["situation", "turns"],
        "additionalProperties": False,
    }


def generate(
    config: GenerateConfig, teacher: TeacherConfig, progress: Progress | None = None, open_feed: OpenFeed | None = None
) -> GenerateResult:
    """Run or resume a generation; blocks until it is written. See `run_generate`.

    Without `progress`, what goes on is shown on stderr; `Progress(enabled=False)` is silent.
    """
    progress = progress or Progress()
    try:
        with stopped_by_sigterm():
            result = asyncio.run(run_generate(config, teacher, progress, open_feed))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {config.out} has a journal: the same command goes on") from None
    progress.say(f"{result.message}. Written to {result.out}")
    return result


async def run_generate(
    config: GenerateConfig, teacher: TeacherConfig, progress: Progress | None = None, open_feed: OpenFeed | None = None
) -> GenerateResult:
    """Grow `config.num_dialogues` dialogues and write `config.out`: dialogues.jsonl, the sides, quarantine, card.

    `open_feed` opens what is to hear of the counters and the card (`tracking.Feed`), once the folder is there.
    The same call on the same folder resumes. A cap ends the run cleanly with what is there. Raises DataError and
    ConfigError for bad input, RunDirError for a folder of another configuration, TeacherError for an endpoint that
    goes on refusing; what was journalled is kept in every case.
    """
    check_filters(config.filters)
    taxonomy = load_taxonomy(config.taxonomy)
    prompts = load_prompts(config.prompts, taxonomy)
    seeds = read_seeds(config.seeds, taxonomy)
    expansion = Expansion(config, prompts, seeds)
    settings = {
        "generate": {key: value for key, value in asdict(config).items() if key not in FREE_KEYS},
        "taxonomy": taxonomy_digest(taxonomy),
        "seeds": digest_of([make_exemplar(seed).text for seed in seeds]),
        "prompts": prompts.digest,
        "teacher": teacher_settings(teacher),
    }
    work = Generation(config, teacher, expansion)
    out = Path(config.out)
    stopped, why = None, ""
    with (
        Journal(out / NAME, "generate", settings, config.fsync_every) as journal,
        RunTracker(open_feed) as tracker,
    ):
        window = Window(work, journal)
        window.advance()
        try:
            await ask_teacher(window, teacher, config, lambda: work.status(window.reused), progress, tracker)
        except BudgetReached as reached:
            stopped, why = "budget", str(reached)
            window.salvage()
        journal.sync()
        stopped = stopped or expansion.stopped or "size"
        result = _finish(work, journal, out, stopped, why)
        tracker.finish(out, result.card)
    return result


def _finish(work: Generation, journal: Journal, out: Path, stopped: str, why: str) -> GenerateResult:
    """Write every file but the journal; a second call writes the same bytes."""
    state = work.expansion

    def dialogues(side: str | None = None) -> Iterator[dict[str, Any]]:
        for span in work.accepted:
            value = journal.read(span)["dialogue"]
            if side is None or value["provenance"]["side"] == side:
                yield value

    write_jsonl(out / "dialogues.jsonl", dialogues())
    for side in SIDES:
        if side in state.side_shares:
            write_jsonl(out / f"{side}.jsonl", dialogues(side))
    quarantined = ({**journal.read(span)["dialogue"], "reason": reason} for span, reason in work.quarantined)
    write_jsonl(out / "quarantine.jsonl", quarantined)
    with_side = [(seed, side) for side, dealt in state.seeds.items() for seed in dealt]
    write_jsonl(
        out / "seeds.jsonl",
        ({**dialogue_to_dict(seed), "provenance": {**seed.provenance, "side": side}} for seed, side in with_side),
    )
    message = stop_message(work, stopped, why)
    card = write_generation_card(work, dialogues, out, stopped, message)
    return GenerateResult(
        out=out,
        accepted=state.accepted.total(),
        sides={side: state.accepted[side] for side in state.side_shares},
        candidates=state.committed,
        reasons=dict(state.reasons),
        stopped=stopped,
        message=message,
        card=card,
    )


def stop_message(work: Generation, stopped: str, why: str) -> str:
    """Why the run ended, in a sentence for people."""
    state, config = work.expansion, work.config
    accepted = state.accepted.total()
    reasons = ", ".join(f"{reason} {count}" for reason, count in state.reasons.most_common())
    head = f"{accepted} of {state.size} dialogues accepted out of {state.committed} candidates"
    tail = f"; rejected: {reasons}" if reasons else ""
    ends = {
        "size": "",
        "budget": f"; stopped at a cap: {why}; the same command with a higher cap goes on",
        "max_candidates": f"; stopped at generate.max_candidates={state.max_candidates}",
        "acceptance": f"; stopped because fewer than generate.min_acceptance={config.min_acceptance:g} were accepted",
        "novelty": f"; stopped because a round's novelty fell below generate.min_novelty={config.min_novelty:g}",
    }
    return head + ends[stopped] + tail


def _clean(text: str) -> str:
    """`text` as it can be journalled: no half surrogate pairs."""
    return text.encode("utf-8", "replace").decode("utf-8")[:200]
