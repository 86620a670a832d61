"""A tiny base model for comparisons on one CPU: a tokenizer and about a million weights, trained from nothing.

The text is a side of its own (`base`), apart from everything that is tuned and measured on. The same loop as tuning
trains it, with every turn a target. Cached by the digest of its inputs.

    python -m extes_train.pretrain --data base.jsonl --out DIR
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extes_train.config import TrainConfig
from extes_train.dialogue.files import digest_of, locked, read_json, sha256_of_file, write_json
from extes_train.environment import cache_directory
from extes_train.errors import DataError, TrainingError
from extes_train.worker import rank_environment, run_worker

RECIPE = 1  # goes up when the code below would make another model of the same inputs
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def main(arguments: Sequence[str]) -> None:
    """Write the base model to --out, from the cache where the same inputs were used before."""
    given = _parser().parse_args(arguments)
    data, out = Path(given.data).resolve(), Path(given.out).resolve()
    if not data.is_file():
        raise DataError(f"{data}: no such file")
    inputs = {key: value for key, value in vars(given).items() if key not in ("data", "out", "cache_dir")}
    digest = digest_of({"recipe": RECIPE, "data": sha256_of_file(data), **inputs})
    if (out / "pretrain.json").is_file() and read_json(out / "pretrain.json")["digest"] == digest:
        print(f"{out}: pretrained before from the same inputs", file=sys.stderr)
        return
    cache = Path(given.cache_dir).resolve() if given.cache_dir else cache_directory() / "pretrained"
    with locked(cache / f"{digest}.lock"):
        if not (cache / digest / "pretrain.json").is_file():
            _pretrain(given, data, digest, cache)
        else:
            print(f"{out}: from the cache", file=sys.stderr)
    _copy(cache / digest, out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m extes_train.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="dialogues.jsonl of the base side")
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--cache-dir", help="default: pretrained/ in the user's cache")
    for name, default, kind, text in (
        ("max-steps", 350, int, "optimizer steps"),
        ("dialogues-per-step", 32, int, "windows a step"),
        ("lr", 3e-3, float, "highest learning rate"),
        ("vocab-size", 1536, int, "entries of the tokenizer"),
        ("context-length", 256, int, "tokens"),
        ("tokens-per-row", 2048, int, "tokens of a packed row"),
        ("hidden-size", 128, int, "width"),
        ("num-hidden-layers", 4, int, "layers"),
        ("num-attention-heads", 4, int, "heads"),
        ("valid-fraction", 0.1, float, "share of the dialogues held out"),
        ("seed", 0, int, "of weights and order"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default {default})")
    return parser


def _pretrain(given: argparse.Namespace, data: Path, digest: str, cache: Path) -> None:
    """Train in CACHE/DIGEST.building, which an interrupted call resumes, and rename the result."""
    from extes_train.engine.process_group import process_group
    from extes_train.training.assembly import load_run_data
    from extes_train.training.run import run_training

    building = cache / f"{digest}.building"
    config = training_config(given, data, building)
    if not (building / "start" / "config.json").is_file():
        write_new_model(config, data, building / "start", given.vocab_size)
    loaded = load_run_data(config)
    with rank_environment(), process_group(config.distributed) as group:
        run_training(config, loaded, group, [])
    heldout = _last_line(building / "run" / "heldout.jsonl")
    assert loaded.heldout is not None
    loss, unigram = heldout["nll"] / heldout["targets"], unigram_loss(loaded.train, loaded.heldout)
    result = {
        "digest": digest, "loss": loss, "unigram_loss": unigram, "ratio": loss / unigram,
        "heldout_targets": heldout["targets"], "cost": read_json(building / "run" / "cost.json"),
        "arguments": {key: value for key, value in vars(given).items() if key not in ("data", "out", "cache_dir")},
    }  # fmt: skip
    write_json(building / "run" / "model" / "pretrain.json", result)
    shutil.rmtree(cache / digest, ignore_errors=True)
    (building / "run" / "model").rename(cache / digest)
    shutil.rmtree(building)
    print(f"pretrained: held-out loss {loss:.3f}, a unigram model's {unigram:.3f}", file=sys.stderr)


def training_config(given: argparse.Namespace, data: Path, building: Path) -> TrainConfig:
    """The run that trains the base: every turn a target, no split into sides that could leak into a comparison."""
    from extes_train.engine.config import OptimConfig, ZeroConfig
    from extes_train.model.config import FullConfig, ModelConfig
    from extes_train.tokens.config import DataConfig, TokensConfig
    from extes_train.training.config import CheckpointConfig, TrackerConfig

    return TrainConfig(
        run_dir=str(building / "run"),
        seed=given.seed,
        # exemplars of one side are related by design; here one side is only measured against itself
        data=DataConfig(train=str(data), valid_fraction=given.valid_fraction, taxonomy="any", leak_check=False),
        model=ModelConfig(
            name="llama", path=str(building / "start"), context_length=given.context_length,
            hidden_size=given.hidden_size, intermediate_size=given.hidden_size * 11 // 4,
            num_hidden_layers=given.num_hidden_layers, num_attention_heads=given.num_attention_heads,
            num_key_value_heads=given.num_attention_heads, vocab_size=given.vocab_size,
        ),
        tokens=TokensConfig(
            layout="flat", targets="all", tokens_per_row=max(given.tokens_per_row, given.context_length),
            min_left_context=0, too_long="truncate_response",
        ),
        tuning=FullConfig(),
        zero=ZeroConfig(stage=0),
        optim=OptimConfig(
            lr=given.lr, max_steps=given.max_steps, dialogues_per_step=given.dialogues_per_step, betas=[0.9, 0.95],
            weight_decay=0.01, warmup_steps=20, min_lr_ratio=0.05,
        ),
        checkpoint=CheckpointConfig(every_steps=100, keep_last=1, at_end=False),
        tracker=TrackerConfig(name="none"),
    )  # fmt: skip


def write_new_model(config: TrainConfig, data: Path, out: Path, vocab_size: int) -> None:
    """A trained tokenizer and untrained weights, in the Hugging Face layout."""
    from extes_train.model.loading import new_tiny_model

    tokenizer = train_tokenizer(_texts(data), vocab_size)
    model = new_tiny_model(config.model, tokenizer, config.seed)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (no text is unknown to it) with pad, bos and eos, without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)


def unigram_loss(train: Any, heldout: Any) -> float:
    """Nats a token of a unigram model (counts of the training targets plus one) on the held-out targets."""
    seen, asked = _target_counts(train), _target_counts(heldout)
    size = max(len(seen), len(asked))
    counts = np.ones(size) + np.pad(seen, (0, size - len(seen)))
    nll = -np.log(counts / counts.sum())
    return float((np.pad(asked, (0, size - len(asked))) * nll).sum() / asked.sum())


def _target_counts(dataset: Any) -> np.ndarray:
    ids = [tree.ids_T[tree.target_Q] for index in range(len(dataset)) for tree in dataset.trees(index)]
    if not ids:
        raise TrainingError("pretraining: no targets in the data")
    return np.bincount(np.concatenate(ids))


def _texts(data: Path) -> list[str]:
    """What the tokenizer learns from: the turns as our plain template writes them."""
    from extes_train.dialogue.jsonl import read_dialogues

    names = {"seeker": "Seeker:", "supporter": "Supporter:"}
    return [f"{names[turn.speaker]}{turn.text}\n" for dialogue in read_dialogues(data) for turn in dialogue.turns]


def _last_line(path: Path) -> dict[str, Any]:
    import json

    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    assert math.isfinite(record["nll"])
    return record


def _copy(source: Path, out: Path) -> None:
    """Copy the model; pretrain.json, which says that it is whole, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "pretrain.json").unlink(missing_ok=True)
    for file in sorted(source.iterdir(), key=lambda file: file.name == "pretrain.json"):
        shutil.copy2(file, out / file.name)


if __name__ == "__main__":
    run_worker(main)
