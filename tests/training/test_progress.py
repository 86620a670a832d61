"""What a run says: lines without a terminal, each once, and where its dialogues went."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from extes_train.composition import compose
from extes_train.training.progress import Progress
from extes_train.training.run import sides_lines


def test_the_last_line_is_not_said_twice(capfd: pytest.CaptureFixture[str]) -> None:
    for detail, lines in (("", ["score: window 2/2"]), ("loss 1", ["score: window 2/2 loss 1"])):
        progress = Progress("score", 2, unit="window")
        progress.update(detail, count=2)
        progress.close()
        assert capfd.readouterr().err.splitlines() == lines
    progress = Progress("score", 3)
    for _ in range(3):
        progress.update()
    progress.close()
    assert capfd.readouterr().err.splitlines() == ["score: step 1/3", "score: step 3/3"]


def test_a_bar_leaves_room_for_what_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    progress = Progress("train", 500, start=38)
    progress.update("loss 2.5617 lr 9.86e-04 2299 tokens/s")
    progress.bar.refresh()
    progress.close()
    shown = [line.rstrip() for line in terminal.getvalue().replace("\r", "\n").splitlines()]
    assert max(map(len, shown)) <= 80 and any(line.endswith("tokens/s") and "39/500" in line for line in shown)


def test_dialogues_that_are_not_trained_on_are_counted() -> None:
    def told(report: dict[str, Any], *words: str, valid: int = 2) -> list[str]:
        sides = SimpleNamespace(valid=[None] * valid, report={"valid_from": "data.valid", **report})
        data: Any = SimpleNamespace(sides=sides)
        return sides_lines(compose(list(words)), data)

    assert told({}) == ["2 dialogues held out (data.valid)"]
    assert told({}, valid=0) == ["no dialogue is held out: no perplexity will be measured"]
    assert told({"left_out": {"base": 7}, "beyond_max_dialogues": 3}, "data.shuffle_responses=true")[1:] == [
        "7 dialogues of side base are not trained on",
        "3 dialogues beyond data.max_dialogues left out",
        "a control: responses come from other dialogues (data.shuffle_responses=true)",
    ]
