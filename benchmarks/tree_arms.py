"""The ways of training on the same responses that benchmarks/tree_training.py compares.

An arm is a list of batches for one optimizer step; `losses` of a batch is sum(nll) over its targets. Every arm has the
same targets in the same contexts, so gradients are equal up to rounding, and every arm uses the same chunked loss.

    tree         token trees, packed; structured attention
    buckets      multi_turn samples of exactly equal length batched together, no padding; causal attention
    packed       multi_turn samples in packed rows; dense mask, as usual
    packed_ours  the same rows through structured attention, which pays for no masked pair
    padded       multi_turn samples in random batches, padded on the right; attention mask, as usual
    per_response one sample for each response, in buckets of equal length
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.tree_inputs import build_windows, trees_of
from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LossConfig
from extes_train.model.forward import decoder, output_head
from extes_train.model.loss import LinearCrossEntropy, row_loss
from extes_train.tokens.rows import pack_rows

ARMS = ("tree", "buckets", "packed", "packed_ours", "padded", "per_response")
LOSS, CHUNK = LossConfig(), 1024
PADDED_BATCH = 8


@dataclass
class Arm:
    """`batches` of one optimizer step; `tokens` that it computes for real (padding counted apart)."""

    name: str
    batches: list[Any]
    tokens: int
    padding: int = 0
    attention: str = "sdpa"
    chosen: str = field(default="", init=False)

    def loss(self, model: Any, batch: Any) -> Any:
        """Sum of nll over the targets of one of `batches`."""
        if isinstance(batch, dict):
            return _batch_loss(model, batch)
        return row_loss(model, row_batch_from_arrays(batch), LOSS)[0]


def build_arms(names: list[str], dialogues: list[Any], tokenizer: Any, context: int, tokens_per_row: int) -> list[Arm]:
    """The arms `names` on all windows of `dialogues`, as one optimizer step."""
    samples = {
        "tree": trees_of(build_windows(dialogues, tokenizer, context, "tree")),
        "multi_turn": trees_of(build_windows(dialogues, tokenizer, context, "flat")),
    }
    if "per_response" in names:
        samples["per_response"] = trees_of(build_windows(dialogues, tokenizer, context, "flat", "per_response"))
    return [_arm(name, samples, context, tokens_per_row) for name in names]


def _arm(name: str, samples: dict[str, list[Any]], context: int, tokens_per_row: int) -> Arm:
    if name in ("tree", "packed", "packed_ours"):
        trees = samples["tree" if name == "tree" else "multi_turn"]
        rows = pack_rows(trees, tokens_per_row if name == "tree" else max(context, tokens_per_row // 2))
        attention = "sdpa" if name == "packed" else "structured"
        return Arm(name, rows, sum(row.num_tokens for row in rows), attention=attention)
    trees = samples["per_response" if name == "per_response" else "multi_turn"]
    groups = _random_groups(trees) if name == "padded" else _equal_groups(trees, tokens_per_row)
    batches = [_rectangle(group) for group in groups]
    tokens = sum(map(len, trees))
    computed = sum(batch["input_ids"].numel() for batch in batches)
    return Arm(name, batches, tokens, computed - tokens)


def _equal_groups(trees: list[Any], tokens_per_batch: int) -> list[list[Any]]:
    by_length: dict[int, list[Any]] = defaultdict(list)
    for tree in trees:
        by_length[len(tree)].append(tree)
    groups = []
    for length, same in sorted(by_length.items()):
        size = max(1, tokens_per_batch // length)
        groups += [same[start : start + size] for start in range(0, len(same), size)]
    return groups


def _random_groups(trees: list[Any]) -> list[list[Any]]:
    shuffled = trees[:]
    random.Random(0).shuffle(shuffled)
    return [shuffled[start : start + PADDED_BATCH] for start in range(0, len(shuffled), PADDED_BATCH)]


def _rectangle(trees: list[Any]) -> dict[str, Any]:
    """Samples as a (B, L) batch, padded on the right; targets as positions in the flattened batch."""
    longest = max(map(len, trees))
    ids = np.zeros((len(trees), longest), dtype=np.int64)
    mask = np.zeros((len(trees), longest), dtype=np.int64)
    targets, labels = [], []
    for number, tree in enumerate(trees):
        ids[number, : len(tree)], mask[number, : len(tree)] = tree.ids_T, 1
        targets.append(tree.target_Q + number * longest - 1)
        labels.append(tree.ids_T[tree.target_Q])
    padded = bool((mask == 0).any())
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask) if padded else None,
        "predictors": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "labels": torch.from_numpy(np.concatenate(labels).astype(np.int64)),
    }


def _batch_loss(model: Any, batch: dict[str, Any]) -> Any:
    """The chunked loss of a rectangle of samples through stock transformers."""
    hidden = decoder(model)(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    predictors = hidden.flatten(0, 1).index_select(0, batch["predictors"])
    ones = torch.ones(len(batch["labels"]))
    head = output_head(model)
    return LinearCrossEntropy.apply(predictors, head.weight, None, batch["labels"], ones, CHUNK)[0]


def run_step(model: Any, arm: Arm, optimizer: Any | None) -> float:
    """Forward and backward of the whole step, and the optimizer; returns the loss summed over targets."""
    use_attention(model, arm.attention)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for batch in arm.batches:
        loss = arm.loss(model, batch)
        loss.backward()
        total += float(loss.detach())
    if optimizer is not None:
        optimizer.step()
    return total


def gradients(model: Any, arm: Arm) -> dict[str, Any]:
    """Gradients of the step, by parameter."""
    run_step(model, arm, None)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
