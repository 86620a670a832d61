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


SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "experts_implementation": "eager"}
MODELS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "gpt2": {
        "vocab_size": 97,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "mixtral": {**SMALL, **EXPERTS, "num_local_experts": 4},
    "qwen2_moe": {**SMALL, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
}


@pytest.mark.parametrize("kind", MODELS)
def test_full_equals_pytorchs_own_count(kind: str) -> None:
    """Matrix products as they run, without attention, whose kernel computes masked pairs too."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**MODELS[kind])).eval()  # no dropout in attention
    use_attention(model, "structured")
    length, targets = 40, 24
    weights = [None] * (length - targets) + [1.0] * targets
    row = row_batch_from_arrays(add_path(HandRow(), 0, list(range(length)), weights))
    with FlopCounterMode(display=False) as counter:
        row_loss(model, row, LossConfig())[0].backward()
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    assert products == pytest.approx(training_flops(model).count(length, targets, 0), rel=1e-3)


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
