"""Rows for tests, built by hand from DESIGN.md's rules: a tree and the flat forms of the same responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class HandRow:
    """The arrays of a packed row."""

    ids_T: list[int] = field(default_factory=list)
    tree_T: list[int] = field(default_factory=list)
    branch_T: list[int] = field(default_factory=list)
    attach_T: list[int] = field(default_factory=list)
    parent_T: list[int] = field(default_factory=list)
    position_T: list[int] = field(default_factory=list)
    target_Q: list[int] = field(default_factory=list)
    predictor_Q: list[int] = field(default_factory=list)
    weight_Q: list[float] = field(default_factory=list)

    def add(self, token: int, tree: int, branch: int, attach: int, parent: int, weight: float | None) -> int:
        """Append a token; a weight makes it a target. Returns its row index."""
        index = len(self.ids_T)
        self.ids_T.append(token)
        self.tree_T.append(tree)
        self.branch_T.append(branch)
        self.attach_T.append(attach)
        self.parent_T.append(parent)
        self.position_T.append(0 if parent < 0 else self.position_T[parent] + 1)
        if weight is not None:
            self.target_Q.append(index)
            self.predictor_Q.append(parent)
            self.weight_Q.append(weight)
        return index


@dataclass
class HandTurn:
    """A supporter turn: context before it (header included), its response, its alternatives; all token ids."""

    context: list[int]
    response: list[int]
    alternatives: list[list[int]]
    weights: list[float]  # of the original and of each alternative


def random_dialogue(rng: np.random.Generator, vocab_size: int, turns: int, most_alternatives: int) -> list[HandTurn]:
    """Turns of 1-6 context tokens and responses of 1-7 tokens, 0 to `most_alternatives` alternatives each."""

    def some(low: int, high: int) -> list[int]:
        return [int(token) for token in rng.integers(0, vocab_size, rng.integers(low, high))]

    result = []
    for _ in range(turns):
        alternatives = [some(1, 8) for _ in range(rng.integers(0, most_alternatives + 1))]
        weights = [1.0, *(float(rng.uniform(0.3, 1.5)) for _ in alternatives)]
        result.append(HandTurn(some(1, 7), some(1, 8), alternatives, weights))
    return result


def add_tree(row: HandRow, tree: int, turns: list[HandTurn]) -> HandRow:
    """The dialogue as one token tree at the end of `row`."""
    parent, attach_at, header = -1, [], []
    for turn in turns:
        for token in turn.context:
            parent = row.add(token, tree, 0, 0, parent, None)
        header.append(parent)
        attach_at.append(parent + 1)
        for token in turn.response:
            parent = row.add(token, tree, 0, 0, parent, turn.weights[0])
    branch = 0
    for turn, attach, last_header in zip(turns, attach_at, header, strict=True):
        for alternative, weight in zip(turn.alternatives, turn.weights[1:], strict=True):
            branch, parent = branch + 1, last_header
            for token in alternative:
                parent = row.add(token, tree, branch, attach, parent, weight)
    return row


def add_path(row: HandRow, tree: int, tokens: list[int], weights: list[float | None]) -> HandRow:
    """A plain sequence at the end of `row`."""
    parent = -1
    for token, weight in zip(tokens, weights, strict=True):
        parent = row.add(token, tree, 0, 0, parent, weight)
    return row


def paths(turns: list[HandTurn], flat: str) -> list[tuple[list[int], list[float | None]]]:
    """The flat samples of a dialogue: tokens and the weight of those that are targets."""
    samples: list[tuple[list[int], list[float | None]]] = []
    history: list[int] = []
    trunk: list[float | None] = []
    for turn in turns:
        history = history + turn.context
        context: list[float | None] = [None] * len(history)
        trunk = trunk + [None] * len(turn.context)
        responses = [turn.response, *turn.alternatives]
        for number, (response, weight) in enumerate(zip(responses, turn.weights, strict=True)):
            if number or flat == "per_response":
                samples.append((history + response, context + [weight] * len(response)))
        history = history + turn.response
        trunk = trunk + [turn.weights[0]] * len(turn.response)
    if flat == "multi_turn":
        samples.insert(0, (history, trunk))
    return samples


def tree_row(dialogues: list[list[HandTurn]]) -> HandRow:
    """All dialogues as trees in one row."""
    row = HandRow()
    for number, turns in enumerate(dialogues):
        add_tree(row, number, turns)
    return row


def flat_row(dialogues: list[list[HandTurn]], flat: str) -> HandRow:
    """All flat samples packed in one row."""
    row, number = HandRow(), 0
    for turns in dialogues:
        for tokens, weights in paths(turns, flat):
            add_path(row, number, tokens, weights)
            number += 1
    return row


def tiny_llama(seed: int = 0, **changes: Any) -> Any:
    """A Llama of 2 layers in fp32 with grouped-query attention; `changes` go to its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
    }  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(shape | changes))).float()
