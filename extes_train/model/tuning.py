"""How weights move: full, lora, dora, qlora, adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from extes_train.errors import ConfigError, ModelError, did_you_mean
from extes_train.model.config import AdapterConfig, LoraConfig, ModelConfig, QloraConfig, TuningConfig


def apply_tuning(model: nn.Module, tuning: TuningConfig, gradient_checkpointing: bool = False) -> nn.Module:
    """`model` with the weights that `tuning` moves, and nothing else, requiring gradients.

    Weights of adapters are fp32 or the model's dtype as the model has it, drawn from torch's global generator (seed it
    alike on every rank). Raises ConfigError or ModelError where the model or the machine cannot take the tuning.
    """
    if tuning.name == "full":
        model.requires_grad_(True)
    elif isinstance(tuning, LoraConfig):
        model = _with_lora(model, tuning)
    elif isinstance(tuning, AdapterConfig):
        model = _with_adapter(model, tuning)
    else:
        raise ConfigError(f"tuning.name={tuning.name}: not one of full, lora, dora, qlora, adapter")
    if gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return model


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that move, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Recompute each decoder layer in the backward pass; non-reentrant, so frozen inputs (LoRA) need no care."""
    from extes_train.model.forward import causal_lm

    inner, settings = causal_lm(model), {"use_reentrant": False}
    if hasattr(inner, "activation_checkpointing_enable"):  # its name in newer releases of transformers 5
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def quantization_config(tuning: TuningConfig) -> Any:
    """transformers' 4-bit configuration for qlora, None for the others. Raises ConfigError without GPU or package."""
    if not isinstance(tuning, QloraConfig):
        return None
    import importlib.util

    if not torch.cuda.is_available():
        raise ConfigError("tuning=qlora needs a GPU: 4-bit weights have no CPU kernels here; use tuning=lora")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("tuning=qlora needs the package bitsandbytes (pip install bitsandbytes), or use tuning=lora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=tuning.quant_type,
        bnb_4bit_use_double_quant=tuning.double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )


def check_tuning(tuning: TuningConfig, model_config: ModelConfig) -> None:
    """What can be refused before any weight is read. Raises ConfigError."""
    quantization_config(tuning)
    if isinstance(tuning, QloraConfig) and model_config.dtype != "bf16":
        raise ConfigError(f"tuning=qlora computes in bf16: set model.dtype=bf16, not {model_config.dtype}")


def _with_lora(model: nn.Module, tuning: LoraConfig) -> nn.Module:
    import peft

    _check_targets(model, tuning.target_modules)
    if isinstance(tuning, QloraConfig):
        quantization_config(tuning)
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.r,
        lora_alpha=tuning.alpha,  # type: ignore[arg-type]
        lora_dropout=tuning.dropout,
        target_modules=list(tuning.target_modules),
        use_dora=tuning.name == "dora",
    )
    return peft.get_peft_model(model, config)


def _check_targets(model: nn.Module, wanted: list[str]) -> None:
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in wanted:
        if target.rpartition(".")[2] not in names:
            raise ConfigError(
                f"tuning.target_modules: {target!r} is no linear layer of this model; it has "
                f"{', '.join(sorted(names))}{did_you_mean(target, sorted(names))}"
            )


def _with_adapter(model: nn.Module, tuning: AdapterConfig) -> nn.Module:
    import peft

    config: Any = getattr(model, "config", None)
    if config.model_type not in ("llama", "mistral"):
        raise ModelError(f"tuning=adapter: LLaMA-Adapter in peft knows llama and mistral, not {config.model_type}")
    layers = config.num_hidden_layers
    wanted = tuning.adapter_layers if tuning.adapter_layers is not None else max(1, layers - 2)
    if wanted > layers:
        raise ConfigError(f"tuning.adapter_layers={wanted}: the model has {layers} layers")
    prompt = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=tuning.adapter_len, adapter_layers=wanted)
    return peft.get_peft_model(model, prompt)
