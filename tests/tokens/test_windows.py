"""Windows: the reference's on real dialogues, and every turn a target exactly once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokens.samples import dialogue

from extes_train.errors import DataError
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.dataset import TokenDataset, build_dataset
from extes_train.tokens.encoder import Encoder
from extes_train.tokens.encoding import EncodedDialogue, EncodedTurn, encode_prefix
from extes_train.tokens.windows import Window, WindowRules, cut_windows

AS_REFERENCE = TokensConfig(min_left_context=0, too_long="truncate_response")


def real_dataset(esconv: dict, tokenizer: Any, side: str, context: int, tokens: TokensConfig) -> TokenDataset:
    return build_dataset(esconv[side], tokenizer, tokens, context_length=context, num_alternatives=None, cache=False)


def test_the_windows_of_the_plain_reference(esconv: dict, real_tokenizers: dict) -> None:
    """shared/reference/plain_sft.py makes 3,421 and 734 windows with 143,349 validation targets."""
    tokenizer = real_tokenizers["stories260K"]
    train = real_dataset(esconv, tokenizer, "train", 512, AS_REFERENCE)
    valid = real_dataset(esconv, tokenizer, "valid", 512, AS_REFERENCE)
    assert (len(train), len(valid), valid.report["targets"]) == (3421, 734, 143_349)
    for dataset, side in ((train, "train"), (valid, "valid")):
        check_each_turn_once(dataset, esconv[side])


@pytest.mark.parametrize(("name", "context"), [("stories260K", 512), ("llama32k-tokenizer", 1024)])
def test_real_windows_with_left_context(name: str, context: int, esconv: dict, real_tokenizers: dict) -> None:
    tokenizer = real_tokenizers[name]
    dataset = real_dataset(esconv, tokenizer, "valid", context, TokensConfig())
    check_each_turn_once(dataset, esconv["valid"])
    short = set(dataset.report["short_context"])
    encoder = Encoder(tokenizer)
    for window in dataset.windows:
        turns = esconv["valid"][window.dialogue].turns
        first = window.responses[0]
        begins = encode_prefix(dataset.template, encoder, turns[window.first_turn : first.turn])
        assert np.array_equal(window.trunk[: first.attach], begins)
        enough = first.attach >= context // 4 or f"{dataset.dialogue_ids[window.dialogue]}:{first.turn}" in short
        assert window.first_turn == 0 or enough, window
        assert max(r.attach + len(r.ids) for r in window.responses) <= context


def check_each_turn_once(dataset: TokenDataset, dialogues: list) -> None:
    """Every original is a target in one window, or named in the report; its ids say its text."""
    found = [f"{dataset.dialogue_ids[w.dialogue]}:{r.turn}" for w in dataset.windows for r in w.responses]
    expected = [
        f"{d.id}:{i}"
        for d in dialogues
        for i, turn in enumerate(d.turns)
        if turn.speaker == "supporter"
    ]  # fmt: skip
    assert sorted(found + dataset.report["skipped"]) == sorted(expected)
    eos = dataset.tokenizer.eos_token_id
    for window in dataset.windows:
        for response in window.responses:
            assert np.array_equal(window.trunk[response.attach : response.attach + len(response.ids)], response.ids)
            name = f"{dataset.dialogue_ids[window.dialogue]}:{response.turn}"
            text = dataset.tokenizer.decode(response.ids[: len(response.ids) - response.num_end])
            if name in dataset.report["truncated"]:
                assert response.num_end == 0
            else:
                assert response.ids[-1] == eos and response.num_end == 1
                assert text.strip() == dialogues[window.dialogue].turns[response.turn].text


@st.composite
def lengths(draw: st.DrawFn) -> list[tuple[str, int, list[int]]]:
    """(speaker, content tokens, tokens of alternatives) of each turn."""
    turns = draw(st.lists(st.tuples(st.sampled_from(["seeker", "supporter"]), st.integers(1, 30)), max_size=9))
    others = st.lists(st.integers(1, 30), max_size=2)
    return [(speaker, size, draw(others) if speaker == "supporter" else []) for speaker, size in turns]


def encoder_of(turns: list[tuple[str, int, list[int]]]) -> Any:
    """Encodes turn t as one header token and `size` tokens t, after a root token."""

    def encode_from(first: int) -> EncodedDialogue:
        ids, places = [99], []
        for number, (speaker, size, others) in enumerate(turns[first:], start=first):
            start = len(ids)
            ids += [77, *[number] * size]
            alternatives = [(np.full(n, number, np.int32), 1, n) for n in others]
            places.append(EncodedTurn(speaker, start, start + 1, len(ids), 1, size, alternatives))
        return EncodedDialogue(np.array(ids, np.int32), places, first)

    return encode_from


@settings(max_examples=30, deadline=None)
@given(lengths(), st.integers(8, 40), st.integers(0, 12), st.sampled_from(["skip", "truncate_response"]))
def test_any_dialogue_is_cut_without_loss(turns: list, context: int, left: int, too_long: str) -> None:
    rules = WindowRules(context, left, too_long)
    windows, counts = cut_windows(encoder_of(turns), [turn[0] for turn in turns], rules)
    responses = [(r.turn, r.alternative) for window in windows for r in window.responses]
    expected = [(i, a) for i, turn in enumerate(turns) for a in range(-1, len(turn[2])) if turn[0] == "supporter"]
    assert sorted(responses + counts.skipped + counts.refused) == sorted(expected)
    for window in windows:
        for response in window.responses:
            size = (
                turns[response.turn][1] if response.alternative < 0 else turns[response.turn][2][response.alternative]
            )
            cut = (response.turn, response.alternative) in counts.truncated
            assert response.attach + len(response.ids) <= context
            assert (response.ids == response.turn).all() and (len(response.ids) < size) == cut
            assert window.trunk[response.attach - 1] == 77
        check_left_context(window, turns, left, counts.short_context)


def check_left_context(window: Window, turns: list, left: int, short: list[int]) -> None:
    """There is enough of it, or the turn is named."""
    first = window.responses[0].turn
    before = sum(size + 1 for _, size, _ in turns[window.first_turn : first])
    assert window.first_turn == 0 or (before >= left) != (first in short)


def test_too_long_by_policy(tokenizer: Any) -> None:
    long = dialogue("Hello", "word " * 60, "Thanks", "Any time.")

    def build(policy: str) -> TokenDataset:
        return build_dataset([long], tokenizer, TokensConfig(too_long=policy), context_length=64, cache=False)

    skipped, truncated = build("skip"), build("truncate_response")
    assert skipped.report["skipped"] == [f"{long.id}:1"] == truncated.report["truncated"]
    assert [len(d.windows) for d in (skipped, truncated)] == [1, 2]
    assert any("longer than the context were skipped" in line for line in skipped.describe())
    with pytest.raises(DataError, match=rf"dialogue {long.id}: turns\[1\]: the response has \d+ tokens where \d+ fit"):
        build("error")
    with pytest.raises(DataError, match=r"no target is left to learn from; raise model.context_length"):
        build_dataset([dialogue("Hi", "word " * 90)], tokenizer, TokensConfig(), context_length=32, cache=False)
