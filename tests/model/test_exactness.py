"""A tree has exactly the loss and the gradients of its flat forms, on every backend; faults are seen."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model.rows_by_hand import HandRow, HandTurn, flat_row, paths, random_dialogue, tiny_llama, tree_row
from torch import nn

from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import AdapterConfig, DoraConfig, FullConfig, LoraConfig, LossConfig, TuningConfig
from extes_train.model.loss import row_loss, target_nll
from extes_train.model.tuning import apply_tuning

BACKENDS = ("sdpa", "eager", "structured")
TUNINGS = {
    "full": FullConfig(),
    "lora": LoraConfig(r=4),
    "dora": DoraConfig(r=4),
    "adapter": AdapterConfig(adapter_len=3),
}
TOLERANCE = 1e-5


def tuned(tuning: str, checkpointing: bool = False) -> nn.Module:
    model = apply_tuning(tiny_llama(), TUNINGS[tuning], checkpointing)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "gate" in name:  # zero at the start: other gradients would be zero too
            nn.init.normal_(parameter, std=0.2)
    return model.train()


def loss_and_gradients(model: nn.Module, row: HandRow, backend: str, chunk: int = 7) -> tuple[float, dict[str, Any]]:
    use_attention(model, backend)
    model.zero_grad()
    loss, _ = row_loss(model, row_batch_from_arrays(row), LossConfig(chunk_tokens=chunk))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def difference(got: tuple[float, dict[str, Any]], want: tuple[float, dict[str, Any]]) -> float:
    """The largest relative difference of the loss and of any gradient tensor."""
    assert got[1].keys() == want[1].keys() and want[1]
    worst = abs(got[0] - want[0]) / abs(want[0])
    for name, gradient in want[1].items():
        assert gradient.norm() > 0, name
        # the adapter's gate is one number, a sum of thousands of terms that cancel: ten times the rounding
        scale = gradient.norm() * (10 if gradient.numel() == 1 else 1)
        worst = max(worst, float((got[1][name] - gradient).norm() / scale))
    return worst


def fixed_dialogues() -> list[list[HandTurn]]:
    """Attachment at the first and the last turn, equal local indices at different turns, two identical trees."""
    rng = np.random.default_rng(3)
    first = random_dialogue(rng, 97, 3, 2)
    first[0].alternatives, first[0].weights = [[5, 6, 7], [5, 8]], [1.0, 0.5, 0.7]
    first[2].alternatives, first[2].weights = [[9], [5, 6, 7]], [1.0, 1.3, 0.4]
    return [first, copy.deepcopy(first), random_dialogue(rng, 97, 2, 0), random_dialogue(rng, 97, 1, 3)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_tree_equals_both_flat_forms(tuning: str, checkpointing: bool) -> None:
    model = tuned(tuning, checkpointing)
    dialogues = fixed_dialogues()
    flats = [loss_and_gradients(model, flat_row(dialogues, flat), "sdpa") for flat in ("multi_turn", "per_response")]
    for backend in BACKENDS:
        tree = loss_and_gradients(model, tree_row(dialogues), backend)
        for flat in flats:
            assert difference(tree, flat) <= TOLERANCE, backend


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_random_trees_equal_flat(seed: int, trees: int, turns: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    dialogues = [random_dialogue(rng, 97, turns, most) for _ in range(trees)]
    model = tuned("full")
    flat = loss_and_gradients(model, flat_row(dialogues, "multi_turn"), "structured")
    assert difference(loss_and_gradients(model, tree_row(dialogues), "structured"), flat) <= TOLERANCE


def test_a_row_equals_transformers_sample_by_sample() -> None:
    """Independent of our forward, masks and loss: stock Hugging Face, one sample at a time."""
    model, dialogues = tuned("full"), fixed_dialogues()
    got = loss_and_gradients(model, tree_row(dialogues), "structured")
    use_attention(model, "sdpa")
    model.zero_grad()
    total = torch.zeros(())
    for turns in dialogues:
        for tokens, weights in paths(turns, "per_response"):
            logits = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
            for index, weight in enumerate(weights):
                if weight is not None:
                    total = total - weight * logits[index - 1, tokens[index]]
    total.backward()
    want = total.item(), {n: p.grad.clone() for n, p in model.named_parameters()}
    assert difference(got, want) <= TOLERANCE


def test_nll_of_each_target() -> None:
    model, row = tuned("full"), tree_row(fixed_dialogues())
    batch = row_batch_from_arrays(row)
    use_attention(model, "auto")
    loss, nll_sum = row_loss(model, batch, LossConfig(chunk_tokens=5))
    nll_Q = target_nll(model, batch, LossConfig(chunk_tokens=3))
    torch.testing.assert_close((nll_Q * batch.weight_Q).sum(), loss.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(nll_Q.sum(), nll_sum, rtol=1e-6, atol=0)
    assert not nll_sum.requires_grad


def test_a_row_without_targets_reaches_every_parameter() -> None:
    for row in (HandRow(), dataclasses.replace(HandRow(), ids_T=[])):
        model = tuned("full")
        loss, gradients = loss_and_gradients(model, row, "structured")
        assert loss == 0 and len(gradients) == len(list(model.parameters()))
        assert all(float(gradient.abs().max()) == 0 for gradient in gradients.values())


def leak(batch: Any) -> None:
    """One branch sees its sibling."""
    both = (batch.branch_T == 1) | (batch.branch_T == 2)
    batch.branch_T[both & (batch.tree_T == 0)] = 1


def own_response_visible(batch: Any) -> None:
    """The branch also sees the original's first token."""
    batch.attach_T[(batch.branch_T > 0) & (batch.tree_T == 0)] += 1


def shifted(batch: Any) -> None:
    """Positions of one branch are off by one."""
    batch.position_1T[0, (batch.branch_T == 1) & (batch.tree_T == 0)] += 1


def dropped(batch: Any) -> None:
    """The first token of one branch carries no loss."""
    first = int(torch.nonzero(batch.branch_T == 1)[0])
    keep = batch.target_Q != first
    batch.target_Q, batch.predictor_Q, batch.weight_Q = (
        batch.target_Q[keep], batch.predictor_Q[keep], batch.weight_Q[keep],
    )  # fmt: skip


def wrong_parent(batch: Any) -> None:
    """The first token of a branch is predicted from the row's previous token."""
    first = int(torch.nonzero(batch.branch_T == 1)[0])
    batch.predictor_Q[batch.target_Q == first] = first - 1


@pytest.mark.parametrize("fault", [leak, own_response_visible, shifted, dropped, wrong_parent])
@pytest.mark.parametrize("backend", ["sdpa", "structured"])
def test_a_planted_fault_is_seen(fault: Any, backend: str) -> None:
    """The comparison that the tests above make fails by a wide margin once a row is wrong."""
    model, dialogues = tuned("full"), fixed_dialogues()
    flat = loss_and_gradients(model, flat_row(dialogues, "multi_turn"), "sdpa")
    batch = row_batch_from_arrays(tree_row(dialogues))
    fault(batch)
    names = ("tree_T", "branch_T", "attach_T", "target_Q", "predictor_Q", "weight_Q")
    arrays = {name: getattr(batch, name).numpy() for name in names}
    row: Any = dataclasses.make_dataclass("Row", [*arrays, "ids_T", "position_T"])(
        **arrays, ids_T=batch.ids_1T[0].numpy(), position_T=batch.position_1T[0].numpy()
    )
    assert difference(loss_and_gradients(model, row, backend), flat) > 100 * TOLERANCE


def test_unknown_tuning_is_refused() -> None:
    from extes_train.errors import ConfigError

    with pytest.raises(ConfigError, match=r"tuning\.name=prefix"):
        apply_tuning(tiny_llama(), TuningConfig(name="prefix"))
