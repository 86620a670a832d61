"""Real dialogues with alternatives through both tokenizers: tree, both flat forms and stock transformers agree."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from model.rows_by_hand import tiny_llama

from extes_train.dialogue.importers import import_dialogues
from extes_train.dialogue.schema import Alternative, Dialogue
from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LossConfig
from extes_train.model.loss import row_loss
from extes_train.tokens.config import TokensConfig
from extes_train.tokens.dataset import TokenDataset, build_dataset
from extes_train.tokens.rows import pack_rows

DIALOGUES, TURNS, CONTEXT = 4, 9, 256
LAYOUTS = [("tree", "multi_turn"), ("flat", "multi_turn"), ("flat", "per_response")]


@pytest.fixture(scope="module")
def dialogues(shared: Path) -> list[Dialogue]:
    """The first turns of real dialogues; other dialogues' responses stand in for DRI's alternatives."""
    found = import_dialogues("esconv", shared / "data/esconv/valid.jsonl")[0]
    draw = random.Random(0)
    responses = [t.text for d in found for t in d.turns if t.speaker == "supporter" and len(t.text) < 120]
    chosen = found[:DIALOGUES]
    for dialogue in chosen:
        dialogue.turns = dialogue.turns[:TURNS]
        for turn in dialogue.turns:
            if turn.speaker == "supporter":
                turn.alternatives = [Alternative(text) for text in draw.sample(responses, draw.randint(0, 3))]
    return chosen


def dataset_for(dialogues: list[Dialogue], tokenizer: Any, layout: str, flat: str) -> TokenDataset:
    tokens = TokensConfig(layout=layout, flat=flat, too_long="truncate_response", opening="placeholder")
    return build_dataset(dialogues, tokenizer, tokens, context_length=CONTEXT, num_alternatives=None, cache=False)


def row_sum(model: Any, rows: list[Any]) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    total, targets = torch.zeros(()), 0
    for row in rows:
        total = total + row_loss(model, row_batch_from_arrays(row), LossConfig())[0]
        targets += len(row.target_Q)
    return total.detach(), list(torch.autograd.grad(total, list(model.parameters()))), targets


@pytest.mark.parametrize("name", ["stories260K", "llama32k-tokenizer"])
def test_all_layouts_agree(name: str, dialogues: list[Dialogue], shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / name)
    model = tiny_llama(vocab_size=len(tokenizer), hidden_size=16, max_position_embeddings=512)
    use_attention(model, "auto")
    results = []
    for layout, flat in LAYOUTS:
        data = dataset_for(dialogues, tokenizer, layout, flat)
        trees = [tree for item in range(len(data)) for tree in data.trees(item)]
        results.append(row_sum(model, pack_rows(trees, 1024)))
    loss, gradients, targets = results[0]
    for other_loss, other_gradients, other_targets in results[1:]:
        assert targets == other_targets > 100
        torch.testing.assert_close(loss, other_loss, rtol=1e-5, atol=0)
        for tree, flat_gradient in zip(gradients, other_gradients, strict=True):
            assert float((tree - flat_gradient).norm()) <= 1e-5 * float(flat_gradient.norm())

    use_attention(model, "sdpa")
    total = torch.zeros((), dtype=torch.float64)
    data = dataset_for(dialogues, tokenizer, "flat", "per_response")
    with torch.no_grad():
        for tree in (tree for item in range(len(data)) for tree in data.trees(item)):
            ids = torch.as_tensor(tree.ids_T).long()
            log_p = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            for target in tree.target_Q.tolist():
                total -= log_p[target - 1, ids[target]].double()
    torch.testing.assert_close(loss.double(), total, rtol=1e-5, atol=0)
