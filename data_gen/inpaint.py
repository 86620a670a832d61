"""Dialogues in, the same dialogues with alternatives out: the run of inpainting, from configuration to card."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_gen.card import write_inpaint_card
from data_gen.config import InpaintConfig, TeacherConfig
from data_gen.embedding import load_sentence_model
from data_gen.filters.chain import check_filters
from data_gen.inpainting import Inpainting
from data_gen.journal import NAME, Journal
from data_gen.output import write_jsonl
from data_gen.progress import Progress
from data_gen.prompting import load_prompts
from data_gen.stopping import stopped_by_sigterm
from data_gen.teacher_run import ask_teacher, taxonomy_digest, teacher_settings
from data_gen.tracking import OpenFeed, RunTracker
from data_gen.window import Window
from extes_train.dialogue.jsonl import data_digest, read_dialogues
from extes_train.dialogue.schema import SIDES, SUPPORTER, dialogue_to_dict
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import BudgetReached, ConfigError, Interrupted, did_you_mean

FREE_KEYS = ("input", "out", "prompts", "taxonomy", "lag", "mode", "batch_poll_s", "fsync_every")


@dataclass
class InpaintResult:
    """What a run left in its folder."""

    out: Path
    dialogues: int
    turns: int
    alternatives: int
    reasons: dict[str, int]
    stopped: str  # complete | budget
    message: str
    card: dict[str, Any]


def inpaint(
    config: InpaintConfig, teacher: TeacherConfig, progress: Progress | None = None, open_feed: OpenFeed | None = None
) -> InpaintResult:
    """Run or resume an inpainting; blocks until it is written. See `run_inpaint`.

    Without `progress`, what goes on is shown on stderr; `Progress(enabled=False)` is silent.
    """
    progress = progress or Progress()
    try:
        with stopped_by_sigterm():
            result = asyncio.run(run_inpaint(config, teacher, progress, open_feed))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {config.out} has a journal: the same command goes on") from None
    progress.say(f"{result.message}. Written to {result.out}")
    return result


async def run_inpaint(
    config: InpaintConfig, teacher: TeacherConfig, progress: Progress | None = None, open_feed: OpenFeed | None = None
) -> InpaintResult:
    """Write `config.out`/dialogues.jsonl: the dialogues of `config.input`, same ids and order, with alternatives.

    Dialogues of other sides than `config.sides` pass through. The same call on the same folder resumes; a cap ends the
    run cleanly with what is there. Raises DataError, ConfigError, RunDirError and TeacherError as generation does.
    """
    if not config.input:
        raise ConfigError("inpaint.in: is needed: a dialogues.jsonl")
    for side in config.sides:
        if side not in SIDES:
            raise ConfigError(f"inpaint.sides: no side {side!r}{did_you_mean(side, SIDES)}; sides: {', '.join(SIDES)}")
    check_filters(config.filters)
    taxonomy = load_taxonomy(config.taxonomy)
    prompts = load_prompts(config.prompts, taxonomy)
    source = Path(config.input)
    source = source / "dialogues.jsonl" if source.is_dir() else source
    if source.resolve() == (Path(config.out) / "dialogues.jsonl").resolve():
        raise ConfigError(f"inpaint.out={config.out}: would overwrite its own input {source}")
    embedding = load_sentence_model(config.embedding_model) if config.embedding_model else None
    work = Inpainting(config, teacher, prompts, read_dialogues(source, taxonomy), embedding)
    settings = {
        "inpaint": {key: value for key, value in asdict(config).items() if key not in FREE_KEYS},
        "input": data_digest(source),
        "taxonomy": taxonomy_digest(taxonomy),
        "prompts": prompts.digest,
        "teacher": teacher_settings(teacher),
    }
    stopped, why = "complete", ""
    with (
        Journal(Path(config.out) / NAME, "inpaint", settings, config.fsync_every) as journal,
        RunTracker(open_feed) as tracker,
    ):
        window = Window(work, journal)
        window.advance()
        try:
            await ask_teacher(window, teacher, config, lambda: work.status(window.reused), progress, tracker)
        except BudgetReached as reached:
            stopped, why = "budget", f"; stopped at a cap: {reached}; the same command with a higher cap goes on"
            window.salvage()
        journal.sync()
        result = _finish(work, journal, stopped, why)
        tracker.finish(result.out, result.card)
    return result


def _finish(work: Inpainting, journal: Journal, stopped: str, why: str) -> InpaintResult:
    """Write every file but the journal; a second call writes the same bytes."""
    out = Path(work.config.out)
    sides = Counter(str(dialogue.provenance.get("side")) for dialogue in work.dialogues)
    work.written_sides = [side for side in SIDES if sides[side]]

    def records(side: str | None = None) -> Iterator[dict[str, Any]]:
        for record in _with_alternatives(work, journal):
            if side is None or record["provenance"].get("side") == side:
                yield record

    write_jsonl(out / "dialogues.jsonl", records())
    for side in work.written_sides:
        write_jsonl(out / f"{side}.jsonl", records(side))
    write_jsonl(out / "quarantine.jsonl", _quarantined(work, journal))
    rejected = work.reasons.total()
    counts = {
        "stopped": stopped,
        "dialogues": len(work.dialogues),
        "dialogues_inpainted": sum(work.wanted(dialogue) for dialogue in work.dialogues),
        "turns_to_inpaint": work.total_turns,
        "turns_asked": work.turns_done,
        "alternatives_asked": work.asked,
        "alternatives_kept": work.kept,
        "alternatives_rejected": rejected,
        "rejected_by_reason": dict(sorted(work.reasons.items())),
    }
    reasons = ", ".join(f"{reason} {count}" for reason, count in work.reasons.most_common())
    message = f"{work.kept} alternatives kept for {work.turns_done} of {work.total_turns} supporter turns{why}"
    message += f"; not kept: {reasons}" if reasons else ""
    card = write_inpaint_card(counts, work, records, out, message)
    return InpaintResult(
        out, len(work.dialogues), work.turns_done, work.kept, dict(work.reasons), stopped, message, card
    )


def _with_alternatives(work: Inpainting, journal: Journal) -> Iterator[dict[str, Any]]:
    """Every dialogue's record; new alternatives stand after those that were there."""
    index = 0
    for dialogue in work.dialogues:
        record = dialogue_to_dict(dialogue)
        for _ in range(_requests(work, dialogue)):
            span = work.spans.get(index)
            index += 1
            if span is None:
                continue
            for turn, alternatives in journal.read(span)["kept"].items():
                target = record["turns"][int(turn)]
                tags = target.pop("tags", None)
                target["alternatives"] = [*target.get("alternatives", []), *alternatives]
                if tags is not None:
                    target["tags"] = tags
        yield record


def _quarantined(work: Inpainting, journal: Journal) -> Iterator[dict[str, Any]]:
    """For every alternative that was set aside: its dialogue with that alternative alone, and the reason."""
    index = 0
    for dialogue in work.dialogues:
        for _ in range(_requests(work, dialogue)):
            span = work.spans.get(index)
            index += 1
            for turn, entries in (journal.read(span).get("quarantined", {}) if span else {}).items():
                for entry in entries:
                    record = dialogue_to_dict(dialogue)
                    for item in record["turns"]:
                        item.pop("alternatives", None)
                    record["turns"][int(turn)]["alternatives"] = [{"text": entry["text"]}]
                    yield {**record, "reason": entry["reason"]}


def _requests(work: Inpainting, dialogue: Any) -> int:
    """How many items a dialogue has."""
    if not work.wanted(dialogue):
        return 0
    return 1 if work.config.scope == "dialogue" else sum(turn.speaker == SUPPORTER for turn in dialogue.turns)
