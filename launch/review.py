"""`extes review FILE`: read dialogues one by one and note what to keep."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from extes_train.dialogue.jsonl import iterate_dialogues
from extes_train.dialogue.schema import Dialogue
from extes_train.errors import DataError

VERDICTS = {"k": "keep", "d": "drop"}


def review(arguments: Sequence[str]) -> int:
    """Show each dialogue; on a terminal, ask for a verdict and append it to FILE.review.jsonl at once.

    A dialogue with a verdict is not shown again, so the next call goes on where this one stopped.
    """
    parser = argparse.ArgumentParser(
        prog="extes review",
        description="Read dialogues in the terminal, one by one. Verdicts go to FILE.review.jsonl.",
    )
    parser.add_argument("file", help="dialogues.jsonl")
    parser.add_argument("--start", type=int, default=0, help="index of the first dialogue to show")
    parser.add_argument("--count", type=int, default=None, help="show at most so many")
    parser.add_argument("--scenario", help="only dialogues of this scenario")
    options = parser.parse_args(arguments)

    quarantined = Path(options.file).name == "quarantine.jsonl"  # these are for people to read too
    dialogues = list(iterate_dialogues(options.file, quarantined=quarantined))[options.start :]
    if not dialogues and not options.start and not quarantined:
        raise DataError(f"{options.file}: holds no dialogue")
    if options.scenario:
        dialogues = [item for item in dialogues if item.scenario == options.scenario]
    verdicts = Path(options.file + ".review.jsonl")
    done = read_verdicts(verdicts)
    waiting = [item for item in dialogues if item.id not in done][: options.count]
    ask = sys.stdin.isatty() and sys.stdout.isatty()
    for number, dialogue in enumerate(waiting, 1):
        print(render_dialogue(dialogue))
        if ask and not ask_verdict(dialogue, f"{number} of {len(waiting)}", verdicts):
            break
    if ask:
        counts = list(read_verdicts(verdicts).values())
        print(f"{counts.count('keep')} kept, {counts.count('drop')} dropped: {verdicts}")
    return 0


def read_verdicts(path: Path) -> dict[str, str]:
    """Dialogue id -> keep or drop; the last verdict on a dialogue counts. Raises DataError with file:line."""
    verdicts: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            record = json.loads(line)
            verdicts[record["id"]] = record["verdict"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f'{path}:{number}: not a verdict, {{"id": …, "verdict": "keep" or "drop"}}') from error
    return verdicts


def ask_verdict(dialogue: Dialogue, where: str, verdicts: Path) -> bool:
    """Ask until the answer is one of ours; False to stop."""
    while True:
        answer = input(f"{where}: [k]eep, [d]rop, [s]kip, [q]uit: ").strip().lower()[:1]
        if answer in VERDICTS:
            with open(verdicts, "a", encoding="utf-8") as file:
                file.write(json.dumps({"id": dialogue.id, "verdict": VERDICTS[answer]}) + "\n")
        if answer in (*VERDICTS, "s", "q"):
            return answer != "q"


def render_dialogue(dialogue: Dialogue, width: int = 80) -> str:
    """The dialogue as a page of text, alternatives under their turn."""
    lines = [f"── {dialogue.id}  {dialogue.scenario}", *textwrap.wrap(dialogue.situation, width), ""]
    for turn in dialogue.turns:
        label = turn.speaker + (f" ({turn.strategy})" if turn.strategy else "")
        label += f" [{', '.join(turn.tags)}]" if turn.tags else ""
        lines += textwrap.wrap(f"{label}: {turn.text}", width, subsequent_indent="    ")
        for other in turn.alternatives:
            head = f"  or ({other.strategy}): " if other.strategy else "  or: "
            lines += textwrap.wrap(head + other.text, width, subsequent_indent="      ")
    return "\n".join([*lines, ""])
