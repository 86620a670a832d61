"""How much memory a rank will need, before anything is started; and the smallest change that makes it fit.

Arithmetic only, no torch. Model states follow the ZeRO paper (arXiv 1910.02054, section 3) with what DeepSpeed 0.19
really keeps; activations are counted tensor by tensor for a Llama layer as transformers 5 runs it, at the longest
row. `benchmarks/memory.py` holds the estimate against measured peaks (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from extes_train.model.config import chunk_size

MIB = 1024**2
GIB = 1024**3
PROCESS_BYTES = 900 * MIB  # a CPU worker after its imports and the start of its process group
CUDA_CONTEXT_BYTES = 1200 * MIB  # context, NCCL, cuBLAS workspaces: outside max_memory_allocated


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a Llama-architecture model."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False

    @property
    def layer_linears(self) -> dict[str, tuple[int, int]]:
        """Linear layers of a decoder layer: name -> (in, out)."""
        hidden, query, key = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden),
            "gate_proj": (hidden, self.intermediate_size), "up_proj": (hidden, self.intermediate_size),
            "down_proj": (self.intermediate_size, hidden),
        }  # fmt: skip

    @property
    def layer_parameters(self) -> int:
        """Weights of one decoder layer."""
        return sum(rows * columns for rows, columns in self.layer_linears.values()) + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights; a tied output head counts once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return embeddings + self.num_layers * self.layer_parameters + self.hidden_size


def model_facts(config: Mapping[str, Any]) -> ModelFacts:
    """From a config.json. Raises KeyError for one without Llama's fields."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return ModelFacts(
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocab_size=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


@dataclass(frozen=True)
class Settings:
    """What of a run's configuration decides about memory."""

    tuning: str = "full"
    rank: int = 8
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    adapter_len: int = 10
    dtype: str = "fp32"
    stage: int = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = 50_000_000
    max_live_elements: int = 1_000_000_000
    prefetch_elements: int = 50_000_000
    gradient_checkpointing: bool = False
    dense_mask: bool = False  # attention=sdpa or eager: a bool mask of row x row
    row_tokens: int = 2048  # the longest row
    row_targets: int = 1024  # targets in it
    chunk_tokens: int | None = None  # None: the device's own
    world_size: int = 1
    cuda: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes per rank: on the device that computes, and on the host where something is offloaded."""

    device: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def device_bytes(self) -> int:
        """Peak on the device."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """Offloaded states."""
        return sum(self.host.values())

    def describe(self) -> str:
        """One line, the largest part first."""
        parts = sorted(((value, name) for name, value in self.device.items() if value >= 10 * MIB), reverse=True)
        text = f"{format_bytes(self.device_bytes)} per rank"
        text += " (" + ", ".join(f"{name} {format_bytes(value)}" for value, name in parts) + ")" if parts else ""
        return text + (f" and {format_bytes(self.host_bytes)} of main memory" if self.host_bytes else "")


def trainable_parameters(facts: ModelFacts, settings: Settings) -> int:
    """Weights that move."""
    if settings.tuning == "full":
        return facts.parameters
    if settings.tuning == "adapter":
        return max(1, facts.num_layers - 2) * (settings.adapter_len * facts.hidden_size + 1)
    chosen = [facts.layer_linears[name] for name in settings.target_modules if name in facts.layer_linears]
    magnitude = sum(columns for _, columns in chosen) if settings.tuning == "dora" else 0
    return facts.num_layers * (sum(settings.rank * (rows + columns) for rows, columns in chosen) + magnitude)


def estimate_memory(facts: ModelFacts, settings: Settings) -> Estimate:
    """The peak of one rank, above what the process needs before it has a model.

    It falls into the backward pass of the longest row or into the optimizer's step, whichever holds more.
    """
    device, host = _states(facts, settings)
    stepping = {"step": device.pop("step", 0.0)}
    passing = {"activations": activation_bytes(facts, settings), "head": _head_bytes(facts, settings)}
    larger = max(passing, stepping, key=lambda parts: sum(parts.values()))
    parts = {name: int(value) for name, value in (device | larger).items() if value}
    if not settings.cuda:  # what is offloaded lies in the same memory
        parts, host = parts | {name: parts.get(name, 0) + value for name, value in host.items()}, {}
    return Estimate(parts, host)


def _states(facts: ModelFacts, settings: Settings) -> tuple[dict[str, float], dict[str, int]]:
    width = 4 if settings.dtype == "fp32" else 2
    total, moving = facts.parameters, trainable_parameters(facts, settings)
    part = moving / settings.world_size if settings.stage else moving
    frozen_width = 0.5 if settings.tuning == "qlora" else width
    weights = (total - moving if settings.tuning != "full" else 0) * frozen_width + moving * width
    bucket = min(settings.bucket_elements, moving) * width
    device: dict[str, float] = {"weights": weights}
    prefetch = 0
    if settings.stage == 3:
        # a lone rank's partition is the weights; others gather copies beside theirs
        live = min(total, settings.max_live_elements) * width if settings.world_size > 1 else 0
        device["weights"] = weights / settings.world_size + live
        prefetch = min(total, settings.prefetch_elements) * width if settings.world_size > 1 else 0
    moments = {"optimizer": 8 * part}
    if settings.stage:
        moments["fp32 copy"] = 4 * part
    device["gradients"] = {0: moving, 1: moving, 2: part, 3: part}[settings.stage] * 4
    if settings.stage:
        # the boundary's flat copy of the partition's gradients, and AdamW's denominator
        device["step"] = (8 if not settings.offload_optimizer else 0) * part
        device["buckets"] = bucket + prefetch
    else:
        device["step"] = 8 * facts.vocab_size * facts.hidden_size if settings.tuning == "full" else 0
    if settings.offload_optimizer:
        host = {name: int(value) for name, value in moments.items()} | {"gradients": int(4 * part)}
        device["gradients"] = bucket
        if settings.stage < 3:  # gradients summed there and as the optimizer sees them, weights on their way back
            host |= {"gradients": int(8 * part), "returned weights": int(width * part)}
            device["buckets"] += facts.vocab_size * facts.hidden_size * width
    else:
        host = {}
        device |= moments
    if settings.offload_parameters:
        host["weights"] = int(weights / settings.world_size)
        device["weights"] = min(weights, 2 * max(facts.layer_parameters, facts.vocab_size * facts.hidden_size) * width)
    return device, host


def activation_bytes(facts: ModelFacts, settings: Settings) -> float:
    """What the backward pass of the longest row needs: all layers' tensors, and the logits' chunk or a layer's own."""
    width = 4 if settings.dtype == "fp32" else 2
    hidden, tokens = facts.hidden_size, settings.row_tokens
    query, key = facts.num_heads * facts.head_dim, facts.num_kv_heads * facts.head_dim
    # two norms: their input in fp32, the scaled output, and the normalised one where the norm's weight moves
    norms = 2 * hidden * (4 + (2 if settings.tuning == "full" else 1) * width)
    # rotated queries and keys, values, the attention's output; gate, its silu, up, their product
    per_layer = norms + width * (2 * query + 2 * key + 4 * facts.intermediate_size)
    if settings.tuning in ("lora", "dora", "qlora"):
        per_layer += len(settings.target_modules) * settings.rank * 4
    if settings.tuning == "dora":  # the magnitude's gradient needs both products of every layer it scales
        outputs = [facts.layer_linears[name][1] for name in settings.target_modules if name in facts.layer_linears]
        per_layer += 2 * sum(outputs) * width
    transient = width * tokens * (3 * facts.intermediate_size + 2 * hidden)
    mask = tokens * tokens * (1 if settings.cuda else 5) if settings.dense_mask else 0
    if settings.gradient_checkpointing:  # a layer's tensors come back one layer at a time, after the logits are gone
        inputs = facts.num_layers * hidden * width * tokens
        return inputs + max(per_layer * tokens + transient, _logits_bytes(facts, settings)) + mask
    return facts.num_layers * per_layer * tokens + max(transient, _logits_bytes(facts, settings)) + mask


def _logits_bytes(facts: ModelFacts, settings: Settings) -> float:
    """On a CPU: logits of a chunk in fp32 and their gradient; another copy in the model's own type if that is not fp32.
    On a GPU the gradient takes the logits' place, and at most 2^26 of them are in fp32 beside it."""
    width = 4 if settings.dtype == "fp32" else 2
    chunk = chunk_size(settings.chunk_tokens, settings.cuda, facts.vocab_size, width)
    logits = min(chunk, settings.row_targets) * facts.vocab_size
    if settings.cuda:
        return logits * width + (0 if settings.dtype == "fp32" else 4 * min(logits, 1 << 26))
    return logits * (8 if settings.dtype == "fp32" else 10)


def _head_bytes(facts: ModelFacts, settings: Settings) -> float:
    """The head's own gradient, summed in fp32 while the chunks pass."""
    return 4 * facts.vocab_size * facts.hidden_size if settings.tuning == "full" else 0


# ------------------------------------------------------------------------------------------------------------ advice


@dataclass(frozen=True)
class Advice:
    """One change: the overrides that make it, and the settings they lead to."""

    overrides: str
    settings: Settings


def advise(facts: ModelFacts, settings: Settings, fits: Callable[[Settings], bool]) -> Advice | None:
    """The first of the changes, mildest first, after which it fits; then two of them together. None: none does."""
    singles = _changes(settings)
    for change in singles:
        if fits(change.settings):
            return change
    for first in singles:
        for second in _changes(first.settings):
            if fits(second.settings):
                return Advice(f"{first.overrides} {second.overrides}", second.settings)
    return None


def _changes(settings: Settings) -> list[Advice]:
    changes = []
    if settings.world_size > 1:
        changes += [
            Advice(f"zero=zero{stage}", replace(settings, stage=stage)) for stage in (2, 3) if stage > settings.stage
        ]
    if not settings.gradient_checkpointing:
        changes.append(Advice("model.gradient_checkpointing=true", replace(settings, gradient_checkpointing=True)))
    if settings.dtype == "fp32":
        changes.append(Advice("model.dtype=bf16", replace(settings, dtype="bf16")))
    if settings.row_tokens > 512:
        rows = max(512, settings.row_tokens // 2)
        shorter = replace(settings, row_tokens=rows, row_targets=min(rows, settings.row_targets))
        changes.append(Advice(f"tokens.tokens_per_row={rows}", shorter))
    if settings.chunk_tokens is None or settings.chunk_tokens > 256:
        changes.append(Advice("loss.chunk_tokens=256", replace(settings, chunk_tokens=256)))
    if settings.cuda and settings.stage >= 2 and not settings.offload_optimizer:
        offload = replace(settings, offload_optimizer=True)
        changes.append(Advice(f"zero=zero{settings.stage}_offload", offload))
    if settings.tuning == "full":
        changes.append(Advice("tuning=lora", replace(settings, tuning="lora")))
    return changes


def format_bytes(count: float) -> str:
    """1.5 GiB, 320 MiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
