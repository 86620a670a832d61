"""The live view tells what matters; targets add up."""

from __future__ import annotations

import io
import random
from collections import Counter

import pytest

from data_gen.progress import Progress, Status
from data_gen.targets import lacking_strategies, parse_shard, portions, scenario_shares
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError

EXTES = load_taxonomy("extes")
CLIENT = {
    **{"requests": 60.0, "requests_per_s": 12.0, "in_flight": 8.0, "queued": 3.0, "cooling_s": 1.5, "retries": 2.0},
    **{"prompt_tokens": 1000.0, "completion_tokens": 500.0, "cost": 0.5, "repairs": 0.0, "answered": 58.0},
}


def status(done: int) -> Status:
    return Status("generate", 100, done, done + 5, reasons=Counter(conduct=3, refusal=2), client=dict(CLIENT))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_view_says_what_matters(stream: io.StringIO) -> None:
    with Progress(stream=stream) as progress:
        progress.update(status(0))
        progress.update(status(50))
        progress.line(status(50))
    text = stream.getvalue()
    for fact in ("50/100", "conduct 3", "12/s", "in flight 8", "queued 3", "cooling down 1.5", "1000 in, 500 out"):
        assert fact in text, fact
    assert "0.50 of about 1.00 USD" in text


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
