"""Under ZeRO on two ranks every gradient of token trees is that of both flat forms, full and LoRA."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from engine.test_zero import config_for, tuned_model
from model.rows_by_hand import flat_row, random_dialogue, tree_row
from support import gloo_run
from torch import nn

from extes_train.engine.config import DistributedConfig
from extes_train.model.batch import RowBatch, row_batch_from_arrays

STAGES, TUNINGS, LAYOUTS = (0, 2, 3), ("full", "lora"), ("tree", "multi_turn", "per_response")
TOLERANCE = 1e-5


def rows_of(rank: int, layout: str) -> list[RowBatch]:
    """Two micro-batches, different on each rank."""
    rng = np.random.default_rng(rank)
    dialogues = [[random_dialogue(rng, 97, 3, 3) for _ in range(n)] for n in (2, 1)]
    return [row_batch_from_arrays(tree_row(d) if layout == "tree" else flat_row(d, layout)) for d in dialogues]


def step_gradients(engine: Any, group: Any, layout: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and full gradients, reduced over the ranks; the optimizer does not step."""
    from deepspeed.utils import safe_get_full_grad

    rows = rows_of(group.rank, layout)
    (weight,) = group.sum([sum(float(row.weight_Q.sum()) for row in rows)])
    total = 0.0
    for index, row in enumerate(rows):
        loss = engine.loss(row)[0] / weight
        engine.backward(loss, is_boundary=index == len(rows) - 1)
        total += float(loss.detach())
    moving = [(name, p) for name, p in engine.model.named_parameters() if p.requires_grad]
    return group.sum([total])[0], {name: safe_get_full_grad(p).clone() for name, p in moving}


def worst_on_rank() -> dict[str, float]:
    """Largest relative difference of loss or a gradient tensor, by stage, tuning and flat form."""
    from extes_train.engine.engine import build_engine
    from extes_train.engine.process_group import process_group

    worst: dict[str, float] = {}
    with process_group(DistributedConfig(timeout_s=60)) as group:
        for stage in STAGES:
            for tuning in TUNINGS:
                found = {}
                for layout in LAYOUTS:
                    model = tuned_model(tuning, checkpointing=stage == 2)
                    torch.manual_seed(1)
                    for name, parameter in model.named_parameters():
                        if "lora_B" in name:  # zero at the start: gradients of lora_A would be zero too
                            nn.init.normal_(parameter, std=0.2)
                    engine = build_engine(model, config_for(stage, tuning), group)
                    found[layout] = step_gradients(engine, group, layout)
                    engine.close()
                loss, gradients = found["tree"]
                for layout in LAYOUTS[1:]:
                    flat_loss, flat = found[layout]
                    differences = [float((gradients[n] - g).norm() / g.norm()) for n, g in flat.items()]
                    assert len(differences) == len(gradients) >= 7
                    worst[f"{stage} {tuning} {layout}"] = max(abs(loss - flat_loss) / flat_loss, *differences)
    return worst


def test_gradients_under_zero() -> None:
    for rank in gloo_run(worst_on_rank, 2):
        assert len(rank) == len(STAGES) * len(TUNINGS) * 2
        assert {case: value for case, value in rank.items() if not value <= TOLERANCE} == {}
