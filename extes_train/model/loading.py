"""Models and tokenizers from a folder or the hub, with errors that say what is wrong with the folder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from extes_train.environment import rank_variables
from extes_train.errors import ModelError
from extes_train.model.architectures import check_takes_trees
from extes_train.model.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGE_BYTES = 1_000_000_000  # weights that take more than a moment to read
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `model.tokenizer`, else of `model.path`. A missing pad token becomes end-of-sequence.

    (Padding only fills batches in generation: targets come from spans, never from comparing ids with pad.)
    Raises ModelError for a missing folder, one without a tokenizer, or a tokenizer without end-of-sequence.
    """
    from transformers import AutoTokenizer

    path = _checked_path(config.tokenizer or config.path, "model.tokenizer" if config.tokenizer else "model.path")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=config.revision)
    except Exception as error:
        folder = Path(path)
        if not folder.is_dir():
            raise ModelError(f"{path}: no folder here, and the hub does not give it ({_first_line(error)})") from error
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ModelError(
                f"{path}: no tokenizer in it (one of {', '.join(TOKENIZER_FILES)}); found {_listing(folder)}; "
                "copy the model's tokenizer there, or set model.tokenizer"
            ) from error
        read_model_config(path, config.revision)  # a broken config.json hinders the tokenizer too
        raise ModelError(f"{path}: its tokenizer cannot be read ({_first_line(error)})") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{path}: the tokenizer has no end-of-sequence token, so a response cannot end; "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        log.info("%s: no pad token; %r is used", path, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    config: ModelConfig,
    *,
    trees: bool = False,
    dtype: str | None = None,
    device: torch.device | str = "cpu",
    quantization: Any = None,
) -> PreTrainedModel:
    """The causal language model of `model.path` in `dtype` (default `model.dtype`) on `device`.

    `quantization` is what `tuning.quantization_config` returns: 4-bit weights for qlora. With `trees`, LayoutError for
    an architecture that is not known to take token trees. Raises ModelError for a missing folder, one without
    config.json or safetensors, or weights that do not fit the architecture.
    """
    from transformers import AutoModelForCausalLM

    say_nothing()
    path, model_config = checked_architecture(config, trees)
    torch_dtype = DTYPES[dtype or config.dtype]
    if config.random_weights:
        model: Any = _with_random_weights(model_config, torch_dtype)
        return model.to(device)
    say_large(path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=config.revision,
            dtype=torch_dtype,
            use_safetensors=True,
            output_loading_info=True,
            quantization_config=quantization,
            device_map={"": str(device)} if quantization is not None else None,
        )
    except Exception as error:
        raise ModelError(f"{path}: the weights cannot be loaded ({_first_line(error)})") from error
    model, found = loaded
    wrong = {key: sorted(map(str, found.get(key) or [])) for key in ("missing_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise ModelError(
            f"{path}: the weights do not fit {model_config.model_type}: "
            + "; ".join(f"{key.replace('_', ' ')}: {', '.join(names[:5])}" for key, names in wrong.items() if names)
        )
    return model if quantization is not None else model.to(device)


def _with_random_weights(model_config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """Weights drawn once, in the order of the modules, as transformers draws those of partitioned models.

    Its own way draws torch's initial weights first and throws them away: another seed's worth of numbers, and time.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
    model.initialize_weights()
    model.tie_weights()
    return model


def checked_architecture(config: ModelConfig, trees: bool) -> tuple[str, Any]:
    """`model.path` and the configuration in it; before any weight is read, what `load_model` would refuse is."""
    path = _checked_path(config.path, "model.path")
    model_config = read_model_config(path, config.revision)
    if trees:
        check_takes_trees(model_config, config.context_length)
    if not config.random_weights:
        _check_weights(path)
    return path, model_config


def new_tiny_model(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
    """A new Llama with the shape in `config` and the tokenizer's vocabulary, weights drawn from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.context_length or 1024,
        tie_word_embeddings=False,
        # the usual 0.02 suits a width of a thousand; a narrow model learns faster from larger weights
        initializer_range=0.7 * config.hidden_size**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM._from_config(shape, attn_implementation="sdpa", dtype=torch.float32)
    return model.to(DTYPES[config.dtype])


def context_length(config: ModelConfig, model_config: Any) -> int:
    """Longest path in tokens: `model.context_length`, at most what the model was made for."""
    limit = int(getattr(model_config, "max_position_embeddings", 0) or 0)
    if config.context_length is None:
        return limit or 2048
    if limit and config.context_length > limit:
        raise ModelError(f"model.context_length={config.context_length}: {config.path} was made for {limit} tokens")
    return config.context_length


def _checked_path(path: str | None, key: str) -> str:
    """The folder, or a hub id. Something that looks like a folder and is none is an error, not a download."""
    if path is None:
        raise ModelError(f"{key} is not set: give a folder with config.json, safetensors and a tokenizer, or a hub id")
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise ModelError(f"{key}={path} is a file; a model is a folder with config.json, safetensors and a tokenizer")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{key}={path}: no such folder")
    return path


def read_model_config(path: str, revision: str | None) -> Any:
    """The architecture's configuration in a folder or of a hub id. Raises ModelError."""
    from transformers import AutoConfig

    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{path} is an adapter, not a model: set model.path to its base model, or merge it first (extes merge)"
            )
        raise ModelError(f"{path}: no config.json; found {_listing(folder)}")
    try:
        return AutoConfig.from_pretrained(path, revision=revision)
    except Exception as error:
        hint = "" if folder.is_dir() else "; it is no folder here, and the hub does not give it"
        raise ModelError(f"{path}: no model configuration can be read ({_first_line(error)}){hint}") from error


_model_config = read_model_config  # the name that training/assembly.py imports


def _check_weights(path: str) -> None:
    """A local folder must hold safetensors: pickles can run code and are refused."""
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{path}: only pickled weights ({pickles[0]}), which can run code when opened and are refused; "
            "convert them to safetensors first"
        )
    raise ModelError(f"{path}: no *.safetensors; found {_listing(folder)}")


def say_nothing() -> None:
    """No progress bars of transformers': one per process, for what is mostly a matter of milliseconds."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def say_large(path: str) -> None:
    """Tell that reading weights will take a while, where it will."""
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    if size > LARGE_BYTES and rank_variables().rank == 0:
        print(f"reading {size / 1e9:.1f} GB of weights from {path}", file=sys.stderr, flush=True)


def _listing(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "an empty folder"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
