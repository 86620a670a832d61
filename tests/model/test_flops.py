"""FLOPs are those that PyTorch counts, and 6 N and 4 N are what they come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model.rows_by_hand import HandRow, add_path, tiny_llama
from torch.utils.flop_counter import FlopCounterMode

from extes_train.model.attention import use_attention
from extes_train.model.batch import row_batch_from_arrays
from extes_train.model.config import LoraConfig, LossConfig
from extes_train.model.flops import TrainingFlops, peak_flops, throughput, training_flops
from extes_train.model.loss import row_loss
from extes_train.model.tuning import apply_tuning


def linear_weights(model: Any) -> tuple[int, int]:
    """Weights of the layers' matrices, and of the head."""
    head = model.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for n, p in model.named_parameters() if n.endswith("_proj.weight"))
    return layers, head


def test_full_is_6n_and_lora_4n() -> None:
    model = tiny_llama()
    layers, head = linear_weights(model)
    full = training_flops(model)
    assert (full.per_token, full.per_target) == (6 * layers, 6 * head)
    assert full.per_pair == 12 * 2 * 32  # two layers of width 32
    lora = training_flops(apply_tuning(model, LoraConfig(r=2)))
    added = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert (lora.per_token, lora.per_target) == (4 * layers + 6 * added, 4 * head)


def test_full_equals_pytorchs_own_count() -> None:
    """Matrix products as they run, without attention, whose kernel computes masked pairs too."""
    model = tiny_llama(tie_word_embeddings=False)
    use_attention(model, "structured")
    length, targets = 40, 24
    weights = [None] * (length - targets) + [1.0] * targets
    row = row_batch_from_arrays(add_path(HandRow(), 0, list(range(length)), weights))
    with FlopCounterMode(display=False) as counter:
        row_loss(model, row, LossConfig())[0].backward()
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    assert products == pytest.approx(training_flops(model).count(length, targets, 0), rel=1e-6)


def test_throughput_counts_tree_and_flat_tokens_apart() -> None:
    line = {"tokens": 10, "targets": 4, "pairs": 100, "flat_tokens": 80, "flat_pairs": 500, "seconds": 2.0}
    flops = TrainingFlops(1e12, 2e12, 1e10)
    rates = throughput(flops, line, None)
    assert rates == {"tflops_per_s": pytest.approx(9.5), "flat_tflops_per_s": pytest.approx(46.5)}
    assert throughput(flops, line, 19e12)["mfu"] == pytest.approx(0.5)


def test_no_peak_is_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops(torch.device("cpu"), "bf16") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops(torch.device("cuda"), "bf16") == 989e12
    assert peak_flops(torch.device("cuda"), "fp32") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Unheard Of")
    assert peak_flops(torch.device("cuda"), "bf16") is None
