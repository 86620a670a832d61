"""Rows: everything packed once, full, and dealt evenly."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokens.samples import scored, windows

from extes_train.dialogue.schema import Alternative, Dialogue, Turn
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.dataset import build_dataset
from extes_train.tokens.row import build_row
from extes_train.tokens.rows import deal_rows, pack_rows, row_cost, row_statistics
from extes_train.tokens.tree import ResponseWeights, build_trees
from extes_train.tokens.windows import Window


@settings(max_examples=30, deadline=None)
@given(st.lists(windows(), max_size=8), st.integers(0, 40), st.integers(1, 4))
def test_packed_and_dealt_rows_hold_every_target_once(several: list[Window], extra: int, world_size: int) -> None:
    trees = [tree for i, window in enumerate(several) for tree in build_trees(window, ResponseWeights(), item=i)]
    limit = extra + max([8, *(r.attach + len(r.ids) for w in several for r in w.responses)])
    limit = max([limit, *(len(window.trunk) for window in several)])
    rows = pack_rows(trees, limit)
    dealt = deal_rows(rows, world_size, empty_token=0)
    assert all(len(row.ids_T) <= limit for row in rows)
    assert len({len(rank) for rank in dealt}) == 1 and len(dealt[0]) >= 1
    held: Counter = Counter()
    for row in (row for rank in dealt for row in rank if row.num_targets):
        held += scored(row)
    assert held == sum((scored(build_row([tree])) for tree in trees), Counter())
    assert sum(row.weight_Q.sum() for rank in dealt for row in rank) == sum(tree.weight_Q.sum() for tree in trees)
    again = pack_rows(trees, limit)
    assert all(np.array_equal(a.ids_T, b.ids_T) for a, b in zip(rows, again))


def with_alternatives(dialogues: list[Dialogue], count: int, seed: int = 0) -> list[Dialogue]:
    """Real dialogues whose supporter turns have `count` alternatives: other turns' responses of about equal length."""
    pool = sorted({t.text for d in dialogues for t in d.turns if t.speaker == "supporter"}, key=lambda t: (len(t), t))
    place = {text: i for i, text in enumerate(pool)}
    rng = random.Random(seed)

    def others(text: str) -> list[Alternative]:
        start = min(max(0, place[text] - 8), len(pool) - 17)
        return [Alternative(text) for text in rng.sample(pool[start : start + 17], count)]

    return [
        Dialogue(d.id, d.scenario, d.situation, [
            Turn(t.speaker, t.text, alternatives=others(t.text) if t.speaker == "supporter" else []) for t in d.turns
        ])
        for d in dialogues
    ]  # fmt: skip


def test_real_rows_are_full_and_balanced(esconv: dict, real_tokenizers: dict) -> None:
    """Steps of 64 dialogues: rows filled to 95 % or more, costs of four ranks within 5 %.

    With four alternatives a whole tree has about 2,000 tokens, so full rows take longer ones.
    """
    sample = with_alternatives(esconv["valid"], 4)
    tokenizer = real_tokenizers["llama32k-tokenizer"]
    for count, tokens_per_row in ((0, 2048), (4, 8192)):
        dataset = build_dataset(
            sample, tokenizer, TokensConfig(tokens_per_row=tokens_per_row),
            context_length=2048, num_alternatives=count, cache=False,
        )  # fmt: skip
        for seed in range(3):
            items = random.Random(seed).sample(range(len(dataset)), 64)
            trees, rows = [tree for i in items for tree in dataset.trees(i)], dataset.rows(items)
            statistics = row_statistics(trees, rows, tokens_per_row)
            assert statistics.fill >= 0.95 and statistics.capacity_fill >= 0.9, statistics
            dealt = deal_rows(dataset.rows(items, multiple_of=4), 4, 0, 512)
            costs = [sum(row_cost(row, 512) for row in rank) for rank in dealt]
            assert min(costs) / max(costs) > 0.95, costs
            targets = sum(dataset.num_targets(i) for i in items)
            assert sum(row.num_targets for row in rows) == targets == statistics.targets


def test_token_ratios_of_the_design(esconv: dict, real_tokenizers: dict) -> None:
    """DESIGN.md's table of flat to tree tokens, on a part of the same dialogues."""
    sample = with_alternatives(esconv["train"][:150], 8)
    dataset = build_dataset(
        sample, real_tokenizers["llama32k-tokenizer"], TokensConfig(tokens_per_row=1 << 16),
        context_length=1 << 16, num_alternatives=None, cache=False,
    )  # fmt: skip
    expected = {0: (6.6, 1.0), 1: (8.6, 5.0), 4: (10.6, 8.8), 8: (11.4, 10.4)}
    for count, (per_response, multi_turn) in expected.items():
        tokens = {"tree": 0, "multi_turn": 0, "per_response": 0}
        for whole in dataset.windows:
            kept = [response for response in whole.responses if response.alternative < count]
            window = Window(whole.dialogue, 0, whole.stop_turn, whole.trunk, kept)
            for name in tokens:
                layout = "tree" if name == "tree" else "flat"
                tokens[name] += sum(len(tree) for tree in build_trees(window, ResponseWeights(), layout, name))
        assert abs(tokens["per_response"] / tokens["tree"] / per_response - 1) < 0.1, (count, tokens)
        assert abs(tokens["multi_turn"] / tokens["tree"] / multi_turn - 1) < 0.1, (count, tokens)
