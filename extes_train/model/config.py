"""Which model, how its weights move, and the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from extes_train.dialogue.checks import above, at_least, one_of, within

ATTENTION = ("auto", "structured", "sdpa", "eager", "flex", "varlen", "flash_attention_2", "stock")
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class ModelConfig:
    """A Llama-architecture model: a local folder or hub id (`llama`), or a new tiny one (`tiny`)."""

    name: str = "tiny"  # tiny | llama
    path: str | None = None  # folder or hub id with weights and tokenizer; setting it implies model=llama
    tokenizer: str | None = None  # folder or hub id; None: the one in `path`
    revision: str | None = None  # hub revision
    context_length: int | None = None  # longest path in tokens; None: the model's own limit
    attention: str = "auto"  # auto | structured | sdpa | eager | flex | varlen | flash_attention_2 | stock
    dtype: str = "fp32"  # fp32 | bf16, of the weights in training
    gradient_checkpointing: bool = False  # recompute activations in the backward pass
    compile: bool = False  # torch.compile of the decoder layers
    chat_template: str | None = None  # a Jinja file that replaces the tokenizer's; "plain": ours
    # shape of a new model (name=tiny), used by pretraining only
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    vocab_size: int = 1536
    random_weights: bool = False  # build the architecture of `path` with random weights (benchmarks)

    def __post_init__(self) -> None:
        one_of("model.name", self.name, ("tiny", "llama"))
        one_of("model.attention", self.attention, ATTENTION)
        one_of("model.dtype", self.dtype, ("fp32", "bf16"))
        at_least("model.context_length", self.context_length, 8)


@dataclass
class TuningConfig:
    """Fields that every tuning has."""

    name: str = "full"  # full | lora | dora | qlora | adapter


@dataclass
class FullConfig(TuningConfig):
    """Every weight moves."""

    name: str = "full"


@dataclass
class LoraConfig(TuningConfig):
    """Low-rank adapters (arXiv 2106.09685)."""

    name: str = "lora"
    r: int = 8  # rank
    alpha: float = 16.0  # scale is alpha / r
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: list(LINEAR_LAYERS))

    def __post_init__(self) -> None:
        at_least("tuning.r", self.r, 1)
        above("tuning.alpha", self.alpha, 0)
        within("tuning.dropout", self.dropout, 0.0, 0.9)


@dataclass
class DoraConfig(LoraConfig):
    """Weight-decomposed low-rank adapters (arXiv 2402.09353)."""

    name: str = "dora"


@dataclass
class QloraConfig(LoraConfig):
    """Low-rank adapters on 4-bit weights (arXiv 2305.14314). Needs a GPU and bitsandbytes."""

    name: str = "qlora"
    quant_type: str = "nf4"  # nf4 | fp4
    double_quant: bool = True


@dataclass
class AdapterConfig(TuningConfig):
    """LLaMA-Adapter (arXiv 2303.16199): learned prompts in the top layers."""

    name: str = "adapter"
    adapter_len: int = 10  # prompt tokens per layer
    adapter_layers: int | None = None  # top layers that get prompts; None: all but two, at least one

    def __post_init__(self) -> None:
        at_least("tuning.adapter_len", self.adapter_len, 1)
        at_least("tuning.adapter_layers", self.adapter_layers, 1)


@dataclass
class LossConfig:
    """Weights of the targets (DESIGN: The loss)."""

    weighting: str = "token"  # token: each target weighs a_r | response: a_r / targets of the response
    per_turn: str = "sum"  # sum | mean: divide by the turn's total weight
    alternatives_weight: float = 1.0  # a_r of an alternative; the original's is 1
    kernel: str = "auto"  # auto | torch | liger: a chunk's softmax and gradient; liger: GPU with liger-kernel
    chunk_tokens: int | None = None  # targets whose logits exist at one time; None: 1024, on a GPU 512 MiB of logits

    def __post_init__(self) -> None:
        one_of("loss.weighting", self.weighting, ("token", "response"))
        one_of("loss.per_turn", self.per_turn, ("sum", "mean"))
        one_of("loss.kernel", self.kernel, ("auto", "torch", "liger"))
        at_least("loss.alternatives_weight", self.alternatives_weight, 0.0)
        at_least("loss.chunk_tokens", self.chunk_tokens, 1)


CPU_CHUNK_TOKENS = 1024
GPU_LOGITS_BYTES = 1 << 29


def chunk_size(chunk_tokens: int | None, cuda: bool, vocabulary: int, bytes_per_logit: int) -> int:
    """Targets whose logits exist at one time, `loss.chunk_tokens` or the device's own number.

    A GPU wants large chunks: each costs a dozen launches and, in full tuning, a pass over the head's fp32 gradient.
    512 MiB of bf16 logits are 8,192 targets of 32,000 words or 2,048 of 128,256.
    """
    if chunk_tokens is not None:
        return chunk_tokens
    if not cuda:
        return CPU_CHUNK_TOKENS
    return max(256, GPU_LOGITS_BYTES // (vocabulary * bytes_per_logit) // 256 * 256)
