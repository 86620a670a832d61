"""Whole weights from a model whose weights may lie in parts on several ranks."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from extes_train.engine.process_group import ProcessGroup


def gathered_weights(
    model: nn.Module, group: ProcessGroup, stage: int, trainable_only: bool
) -> dict[str, Tensor] | None:
    """Name -> weight on the CPU, one gathered at a time; rank 0 gets them, other ranks None.

    Under ZeRO-3 a parameter's own tensor has no elements (FACTS.md): saving those is how adapters get lost.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if trainable_only and not parameter.requires_grad:
            continue
        with _gathered(parameter, stage):
            if group.is_first:
                weights[name] = parameter.detach().to("cpu", copy=True)
    if group.is_first:
        persistent = set(model.state_dict().keys())
        for name, buffer in model.named_buffers():
            if name in persistent and not trainable_only:
                weights[name] = buffer.detach().to("cpu", copy=True)
    empty = [name for name, weight in weights.items() if weight.numel() == 0]
    assert not empty, f"gathered weights without elements: {empty[:5]}"
    return weights if group.is_first else None


def _gathered(parameter: nn.Parameter, stage: int) -> Any:
    if stage < 3:
        return contextlib.nullcontext()
    import deepspeed

    with torch.no_grad():
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=None)
