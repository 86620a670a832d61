"""`extes review FILE`: read dialogues one by one and note what to keep."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from extes_train.dialogue.jsonl import read_dialogues
from extes_train.dialogue.schema import Dialogue


def review(arguments: Sequence[str]) -> int:
    """Show each dialogue; on a terminal, ask keep/drop/quit and append the verdict to FILE.review.jsonl."""
    parser = argparse.ArgumentParser(prog="extes review", description="Read dialogues in the terminal, one by one.")
    parser.add_argument("file", help="dialogues.jsonl")
    parser.add_argument("--start", type=int, default=0, help="index of the first dialogue to show")
    parser.add_argument("--count", type=int, default=None, help="show at most so many")
    options = parser.parse_args(arguments)

    verdicts = Path(options.file + ".review.jsonl")
    done = {json.loads(line)["id"] for line in verdicts.read_text().splitlines()} if verdicts.exists() else set()
    dialogues = read_dialogues(options.file)[options.start :]
    ask = sys.stdin.isatty() and sys.stdout.isatty()
    for dialogue in [item for item in dialogues if item.id not in done][: options.count]:
        print(render_dialogue(dialogue))
        if not ask:
            continue
        answer = input("[k]eep, [d]rop, [s]kip, [q]uit: ").strip().lower()[:1]
        if answer == "q":
            break
        if answer in ("k", "d"):
            with open(verdicts, "a", encoding="utf-8") as file:
                file.write(json.dumps({"id": dialogue.id, "verdict": {"k": "keep", "d": "drop"}[answer]}) + "\n")
    return 0


def render_dialogue(dialogue: Dialogue, width: int = 80) -> str:
    """The dialogue as a page of text, alternatives under their turn."""
    lines = [f"── {dialogue.id}  {dialogue.scenario}", *textwrap.wrap(dialogue.situation, width), ""]
    for turn in dialogue.turns:
        label = turn.speaker + (f" ({turn.strategy})" if turn.strategy else "")
        label += f" [{', '.join(turn.tags)}]" if turn.tags else ""
        lines += textwrap.wrap(f"{label}: {turn.text}", width, subsequent_indent="    ")
        for other in turn.alternatives:
            head = f"  or ({other.strategy}): " if other.strategy else "  or: "
            lines += textwrap.wrap(head + other.text, width, subsequent_indent="      ", initial_indent="")
    return "\n".join([*lines, ""])
