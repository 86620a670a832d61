"""Presidio's pattern recognizers beside our own patterns: no model, no network."""

from __future__ import annotations

import socket
import sys
from typing import Any, NoReturn

import pytest

from data_gen.config import FiltersConfig
from data_gen.filters import pii
from data_gen.filters.chain import check_filters, check_response_text
from data_gen.filters.pii import personal_data
from data_gen.filters.text import TextView
from data_gen.seed_dialogues import read_seeds
from extes_train.dialogue.taxonomy import load_taxonomy
from extes_train.errors import ConfigError

ONLY_PRESIDIO = [
    ("My wallet is 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa, he emptied it.", "crypto"),
    ("They asked for my passport, A12803456, at the desk.", "us_passport"),
    ("Look at https://www.example.com/me and tell me.", "url"),
    ("My national insurance number is AB123456C and nobody called.", "uk_nino"),
]


def refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise AssertionError("the network was asked")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pii._analyzer.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(("text", "kind"), ONLY_PRESIDIO)
def test_presidio_finds_what_our_patterns_leave(text: str, kind: str) -> None:
    assert personal_data(text, "patterns") is None
    assert personal_data(text, "presidio") == kind


def test_our_patterns_still_count() -> None:
    assert personal_data("Write to anna.berg@example.org, please.", "presidio") == "email"


def test_names_places_and_plain_numbers_are_none() -> None:
    for text in (
        "Anna moved to Oslo in 1998 with her 3 sons; it was 30 degrees.",
        "I slept 4 hours, woke at 3:15, and counted to 1000 twice.",
    ):
        assert personal_data(text, "presidio") is None


def test_the_seeds_pass() -> None:
    for seed in read_seeds(None, load_taxonomy("extes")):
        text = "\n".join(turn.text for turn in seed.turns)
        assert personal_data(text, "presidio") is None, seed.id


def test_the_filter_chain_asks_it() -> None:
    filters = FiltersConfig(pii="presidio")
    check_filters(filters)
    text = ONLY_PRESIDIO[0][0]
    rejected = check_response_text(text, TextView([text]), filters)
    assert rejected is not None and (rejected.reason, rejected.detail) == ("pii", "crypto")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(ConfigError, match=r"filters\.pii=presidio: presidio-analyzer is not installed; .*extra `pii`"):
        check_filters(FiltersConfig(pii="presidio"))
