"""Floating-point operations of training, for throughput and MFU.

Counted is what the computation needs, a multiplication and an addition as two: per token the weights of the layers, per
target the head's (logits exist for targets only), per visible (query, key) pair the attention scores and the weighted
sum. A weight that moves costs 6 (forward, gradient of the activation, gradient of the weight), a frozen one 4: so full
fine-tuning comes to 6 N a token, LoRA to 4 N and 6 for its own few. A pair costs 12 times the width of all heads, in
every layer. Recomputation (gradient checkpointing) is not counted, as is usual for MFU (arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

# dense bf16 peak of a card in FLOP/s, from the vendors' data sheets; matched in the device's name, first hit counts
BF16_PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12,
    "L40S": 362e12, "A6000": 155e12, "L4": 121e12, "A10": 125e12, "4090": 165e12, "3090": 71e12, "V100": 125e12,
}  # fmt: skip


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of forward and backward: of a token, of a target, of a visible pair."""

    per_token: float
    per_target: float
    per_pair: float

    def count(self, tokens: float, targets: float, pairs: float) -> float:
        """FLOPs of so many tokens, targets and (query, key) pairs."""
        return self.per_token * tokens + self.per_target * targets + self.per_pair * pairs


def training_flops(model: nn.Module) -> TrainingFlops:
    """What training `model` costs, tuning included. Of a mixture's experts count as many as a token goes through."""
    from extes_train.model.forward import causal_lm, output_head

    head, config = output_head(model), causal_lm(model).config
    in_head = {id(module) for module in head.modules()}
    per_token = per_target = 0.0
    for module in model.modules():
        cost = sum((6 if moves else 4) * size for size, moves in _matrices(module, config))
        if id(module) in in_head:
            per_target += cost
        else:
            per_token += cost
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_pair = 12.0 * config.num_hidden_layers * config.num_attention_heads * head_size
    return TrainingFlops(per_token, per_target, per_pair)


def _matrices(module: nn.Module, config: Any) -> list[tuple[float, bool]]:
    """(elements, whether they move) of the matrices that `module` itself multiplies a token with.

    ZeRO-3 leaves weights empty and 4-bit ones are packed, so a linear layer is asked for its features.
    """
    if isinstance(module, nn.Linear):
        return [(module.in_features * module.out_features, module.weight.requires_grad)]
    if isinstance(module, Conv1D):
        return [(module.nx * module.nf, module.weight.requires_grad)]
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    found = []
    for weight in module.parameters(recurse=False):
        shape = tuple(getattr(weight, "ds_shape", weight.shape))
        if len(shape) == 3 and shape[0] == experts:
            found.append((math.prod(shape[1:]) * config.num_experts_per_tok, weight.requires_grad))
        elif len(shape) == 2 and shape[0] == experts:  # the router
            found.append((math.prod(shape), weight.requires_grad))
    return [] if isinstance(module, nn.Embedding) else found


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Peak FLOP/s of one device in bf16, None where it is not known (a CPU, another card, other types)."""
    if device.type != "cuda" or dtype != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in BF16_PEAKS.items() if key in name), None)


def throughput(flops: TrainingFlops, line: dict[str, Any], peak: float | None) -> dict[str, float]:
    """`tflops_per_s` of a metrics line, the same counted on the flat tokens it stands for, and `mfu` where known.

    `peak` is that of all devices together. MFU counts the tree's own tokens: work that was saved is no work.
    """
    done = flops.count(line["tokens"], line["targets"], line["pairs"]) / line["seconds"]
    flat = flops.count(line["flat_tokens"], line["targets"], line["flat_pairs"]) / line["seconds"]
    rates = {"tflops_per_s": done / 1e12, "flat_tflops_per_s": flat / 1e12}
    return rates if peak is None else {**rates, "mfu": done / peak}
