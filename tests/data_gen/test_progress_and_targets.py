"""The live view tells what matters; targets add up."""

from __future__ import annotations

import io
import random
import re
from collections import Counter

import pytest

from data_gen.filters.chain import REASONS
from data_gen.progress import Progress, Status
from data_gen.targets import lacking_strategies, parse_shard, portions, scenario_shares
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError

EXTES = load_taxonomy("extes")
CLIENT = {
    **{"requests": 60.0, "requests_per_s": 12.0, "in_flight": 8.0, "queued": 3.0, "cooling_s": 1.5, "retries": 2.0},
    **{"prompt_tokens": 1000.0, "completion_tokens": 500.0, "cost": 0.5, "repairs": 0.0, "answered": 58.0},
}


def status(done: int, cost: float = 0.5) -> Status:
    client = {**CLIENT, "cost": cost, "answered": 8.0 + done}
    return Status("generate", 100, done, done + 5, reasons=Counter(conduct=3, refusal=2), client=client)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_view_says_what_matters(stream: io.StringIO) -> None:
    with Progress(stream=stream) as progress:
        progress.update(status(0, cost=0.0))
        progress.update(status(50))
        progress.line(status(50))
    text = stream.getvalue()
    facts = ("50/100 dialogues (91% of candidates)", "5 (conduct 3, refusal 2)", "/s", "in flight 8", "queued 3")
    for fact in (
        *facts,
        "retries 2",
        "cooling down 1.5 s",
        "1,000 in, 500 out",
        "0.5000 of about 1.00 USD",
        "time left",
    ):
        assert fact in text, fact


def test_what_an_earlier_process_spent_is_not_projected_again() -> None:
    """50 of 100 were there for 5.00; ten more cost 1.00, so 40 to go cost 4.00. Nothing done yet projects nothing."""
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.update(status(50, cost=5.0))
        progress.line(status(50, cost=5.0))
        progress.line(status(60, cost=6.0))
    first, second = stream.getvalue().splitlines()
    assert "cost 5.00 USD so far" in first and "time left -" in first
    assert "cost 6.00 of about 10.00 USD" in second and "time left 0:00" in second


def test_every_line_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream, reasons = Terminal(), Counter(dict.fromkeys(REASONS, 1200))
    busy = {**CLIENT, "requests": 61234.0, "prompt_tokens": 1.1e8, "in_flight": 256.0, "retries": 2120.0, "cost": 46.5}
    with Progress(stream=stream) as progress:
        progress.update(Status("generate", 100_000, 0, 0, client=busy))
        progress.update(
            Status("inpaint", 1000, 400, 450, "turns", 3, reasons, 1504, (0.9, 0.8), busy, {"total": 9, "completed": 1})
        )
    progress.say("stopped at a cap: teacher.max_requests=60; the same command with a higher cap goes on " * 3)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 80
    shown = " ".join(plain.split())
    for fact in (
        *(f"{reason} 1,200" for reason in REASONS),
        "1,504 alternatives",
        "batch 1 of 9 lines",
        "last round 80%",
    ):
        assert fact in shown, fact


def test_nothing_is_shown_when_not_wanted() -> None:
    stream = io.StringIO()
    with Progress(enabled=False, stream=stream) as progress:
        progress.update(status(1))
        progress.line(status(1))
    assert stream.getvalue() == ""


def test_portions_add_up() -> None:
    assert portions(10, {"a": 0.5, "b": 0.25, "c": 0.25}) in ({"a": 5, "b": 3, "c": 2}, {"a": 5, "b": 2, "c": 3})
    for total in (0, 1, 7, 300):
        assert sum(portions(total, {"a": 0.8, "b": 0.1, "c": 0.1}).values()) == total


def test_shares_follow_the_published_table() -> None:
    shares = scenario_shares("extes", EXTES)
    assert sum(shares.values()) == pytest.approx(1) and len(shares) == 36
    assert shares["breakups-or-divorce"] == pytest.approx(710 / 11183)
    with pytest.raises(ConfigError, match=r"has no published counts|has no scenarios"):
        scenario_shares("extes", load_taxonomy("any"))


def test_the_strategies_a_pool_lacks_are_named() -> None:
    counts = Counter(dict.fromkeys(EXTES.strategies, 1000))
    counts["offer-hope"] = counts["others"] = 10
    for seed in range(5):
        assert {"offer-hope", "others"} <= set(lacking_strategies(counts, EXTES, 4, random.Random(seed)))


@pytest.mark.parametrize("shard", ["3/3", "a/2", "1", "-1/2", "1/0"])
def test_bad_shards(shard: str) -> None:
    with pytest.raises(ConfigError, match="must be i/n"):
        parse_shard("generate.shard", shard)
