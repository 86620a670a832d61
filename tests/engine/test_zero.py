"""DeepSpeed at every ZeRO stage trains like plain PyTorch on the same rows; what is saved gives the same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model.rows_by_hand import HandRow, flat_row, paths, random_dialogue, tiny_llama, tree_row
from support import gloo_run

from extes_train.config import TrainConfig
from extes_train.engine.config import DistributedConfig, OptimConfig, ZeroConfig
from extes_train.model.attention import use_attention
from extes_train.model.batch import RowBatch, row_batch_from_arrays
from extes_train.model.config import FullConfig, LoraConfig, LossConfig
from extes_train.model.loss import row_loss
from extes_train.model.tuning import apply_tuning

STEPS, ROWS_PER_RANK, WORLD = 20, 2, 2
TUNINGS = {"full": FullConfig(), "lora": LoraConfig(r=4)}
LR = 3e-3


def step_rows(step: int, flat: str | None = None) -> list[list[HandRow]]:
    """rows[rank][micro-batch] as token trees, or with `flat` as packed samples of the same responses.

    Targets differ between the ranks, and one rank's last row is empty at times.
    """
    rng = np.random.default_rng(step)
    sizes = [[3, 2], [1, 1]]
    dialogues = [[[random_dialogue(rng, 97, 2, 2) for _ in range(n)] for n in rank] for rank in sizes]
    rows = [[flat_row(d, flat) if flat else tree_row(d) for d in rank] for rank in dialogues]
    if step % 3 == 0:
        rows[1][1] = HandRow()
    return rows


def step_samples(step: int) -> list[tuple[list[int], list[float | None]]]:
    """The flat samples of rank 0's first row."""
    rng = np.random.default_rng(step)
    return [sample for _ in range(3) for sample in paths(random_dialogue(rng, 97, 2, 2), "per_response")]


def learning_rate(step: int) -> float:
    return LR * (1 - step / (2 * STEPS))


def config_for(stage: int, tuning: str) -> TrainConfig:
    zero = ZeroConfig(
        stage=stage, stage3_param_persistence_threshold=0, stage3_max_live_parameters=0, stage3_max_reuse_distance=0
    )
    return TrainConfig(
        zero=zero, tuning=TUNINGS[tuning], optim=OptimConfig(lr=LR, clip_norm=0.5, weight_decay=0.01),
        loss=LossConfig(chunk_tokens=16),
    )  # fmt: skip


def tuned_model(tuning: str, checkpointing: bool = False) -> Any:
    torch.manual_seed(7)
    model = apply_tuning(tiny_llama(seed=5), TUNINGS[tuning], checkpointing)
    use_attention(model, "auto")
    return model


def plain_run(tuning: str) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, norms and final weights of one process in plain PyTorch."""
    model = tuned_model(tuning).train()
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=LR, weight_decay=0.01)
    losses, norms = [], []
    for step in range(STEPS):
        batches = [row_batch_from_arrays(row) for rank in step_rows(step) for row in rank]
        weight = sum(float(batch.weight_Q.sum()) for batch in batches)
        total = torch.stack([row_loss(model, batch, LossConfig())[0] / weight for batch in batches]).sum()
        total.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(moving, 0.5)))
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()))
    return losses, norms, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def backward_pass(engine: Any, group: Any, batches: list[RowBatch]) -> float:
    """Loss and gradients of a step whose rows on this rank are `batches`; returns the loss over all ranks."""
    (weight,) = group.sum([sum(float(batch.weight_Q.sum()) for batch in batches)])
    total = 0.0
    for index, batch in enumerate(batches):
        loss = engine.loss(batch)[0] / weight
        engine.backward(loss, is_boundary=index == len(batches) - 1)
        total += float(loss.detach())
    (summed,) = group.sum([total])
    return float(summed)


def train_steps(engine: Any, group: Any, steps: range, flat: str | None = None) -> tuple[list[float], list[float]]:
    losses, norms = [], []
    for step in steps:
        batches: list[RowBatch] = [row_batch_from_arrays(row) for row in step_rows(step, flat)[group.rank]]
        losses.append(backward_pass(engine, group, batches))
        norms.append(float(engine.step(learning_rate(step))))
    return losses, norms


def zero_rank(cases: list[tuple[int, str]], flat_cases: list[tuple[int, str, str]], folder: str) -> dict[str, Any]:
    """On every rank: all cases one after another in one process group."""
    from extes_train.engine.engine import build_engine
    from extes_train.engine.process_group import process_group
    from extes_train.model.saving import save_final

    results: dict[str, Any] = {}
    with process_group(DistributedConfig(timeout_s=60)) as group:
        for stage, tuning in cases:
            engine = build_engine(tuned_model(tuning, stage == 3), config_for(stage, tuning), group)
            losses, norms = train_steps(engine, group, range(STEPS))
            probe = row_batch_from_arrays(step_rows(99)[group.rank][0])
            nll = float(engine.target_nll(probe).sum())
            state = engine.full_state_dict()
            if state is not None:
                torch.save(state, Path(folder) / f"{stage}-{tuning}.pt")
                save_final(engine.model, state, None, config_for(stage, tuning), Path(folder) / f"{stage}-{tuning}", {})
            local = max(p.numel() for p in engine.model.parameters())
            results[f"{stage} {tuning}"] = (losses, norms, nll, local)
            engine.close()
        for stage, tuning, flat in flat_cases:
            engine = build_engine(tuned_model(tuning), config_for(stage, tuning), group)
            results[f"{stage} {tuning} {flat}"] = train_steps(engine, group, range(STEPS), flat)
            engine.close()
    return results


FLAT_CASES = [(0, "lora", "multi_turn"), (2, "full", "per_response"), (3, "lora", "per_response")]
CASES = [(stage, tuning) for stage in (0, 1, 2, 3) for tuning in TUNINGS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("zero")
    return gloo_run(zero_rank, WORLD, CASES, FLAT_CASES, str(folder)), folder


@pytest.mark.parametrize("tuning", TUNINGS)
def test_every_stage_equals_plain_pytorch(tuning: str, trained: tuple[list[dict[str, Any]], Path]) -> None:
    ranks, folder = trained
    losses, norms, weights = plain_run(tuning)
    assert max(norms) > 0.5  # clipping acts
    start = tuned_model(tuning).state_dict()
    assert all(float((weight - start[name]).abs().max()) > LR for name, weight in weights.items())
    for stage in (0, 1, 2, 3):
        for rank in ranks:
            got = rank[f"{stage} {tuning}"]
            np.testing.assert_allclose(got[0], losses, rtol=1e-4, err_msg=f"stage {stage}")
            np.testing.assert_allclose(got[1], norms, rtol=1e-4, err_msg=f"stage {stage}")
        state = torch.load(folder / f"{stage}-{tuning}.pt", weights_only=True)
        for name, weight in weights.items():
            torch.testing.assert_close(state[name], weight, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_flat_layout_trains_alike(trained: tuple[list[dict[str, Any]], Path]) -> None:
    for stage, tuning, flat in FLAT_CASES:
        tree, got = (trained[0][0][key] for key in (f"{stage} {tuning}", f"{stage} {tuning} {flat}"))
        np.testing.assert_allclose(got[0], tree[0], rtol=1e-4)
        np.testing.assert_allclose(got[1], tree[1], rtol=1e-4)


def test_stage_3_really_partitions(trained: tuple[list[dict[str, Any]], Path]) -> None:
    assert all(rank[f"3 {tuning}"][3] == 0 for rank in trained[0] for tuning in TUNINGS)


def test_saved_models_open_in_plain_transformers(trained: tuple[list[dict[str, Any]], Path]) -> None:
    """The engine's loss of a row is that of the saved model, opened without us, one sample at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ranks, folder = trained
    samples = step_samples(99)
    for stage, tuning in CASES:
        path = folder / f"{stage}-{tuning}"
        if tuning == "full":
            model: Any = AutoModelForCausalLM.from_pretrained(path)
        else:
            model = PeftModel.from_pretrained(tiny_llama(seed=5), str(path))
        total = 0.0
        with torch.no_grad():
            for tokens, weights in samples:
                log_p = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
                total -= sum(float(log_p[i - 1, tokens[i]]) for i, weight in enumerate(weights) if weight is not None)
        assert ranks[0][f"{stage} {tuning}"][2] == pytest.approx(total, rel=1e-5), (stage, tuning)
