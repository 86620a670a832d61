"""What the training tests train: made-up dialogues, an untrained model, the overrides of a short run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SEEKER = ["I lost my job", "My friend left", "I feel so tired", "Nobody listens to me", "The exam went badly"]
SUPPORTER = ["That sounds hard", "I am here for you", "You did your best", "Tell me more about it", "Take your time"]
ENDS = ["today.", "and it hurts.", "this week.", "as you say.", "I think.", "one step at a time."]


def write_dialogue_file(path: Path, number: int = 14, alternatives: int = 2) -> None:
    """`number` dialogues of 4 to 8 turns, `alternatives` at each supporter turn."""
    from extes_train.dialogue.jsonl import write_dialogues
    from extes_train.dialogue.schema import Alternative, Turn, make_dialogue

    draw = random.Random(5)

    def text(starts: list[str]) -> str:
        return f"{draw.choice(starts)} {draw.choice(ENDS)} {draw.choice(starts)} {draw.choice(ENDS)}"

    dialogues = []
    for index in range(number):
        turns: list[Any] = []
        for _ in range(draw.randint(2, 4)):
            others = [Alternative(text=text(SUPPORTER)) for _ in range(alternatives)]
            turns += [Turn("seeker", text(SEEKER)), Turn("supporter", text(SUPPORTER), alternatives=others)]
        dialogues.append(make_dialogue("any", f"situation {index}", turns, {"source": "test"}))
    write_dialogues(path, dialogues)


def write_tiny_model(data: Path, out: Path) -> None:
    """A Llama of two layers of width 32 with a tokenizer of its own."""
    from extes_train.config import TrainConfig
    from extes_train.model.config import ModelConfig
    from extes_train.pretrain import write_new_model

    shape = ModelConfig(
        context_length=192, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    write_new_model(TrainConfig(model=shape), data, out, vocab_size=400)


def overrides(tiny: dict[str, str], run_dir: Path | str, *more: str) -> list[str]:
    """A run of 6 steps on one process."""
    return [
        f"run_dir={run_dir}", f"data.train={tiny['data']}", f"model.path={tiny['model']}", "data.taxonomy=any",
        "data.leak_check=false", "data.valid_fraction=0.2", "tokens.tokens_per_row=256", "tracker=none", "zero=zero0",
        "optim.dialogues_per_step=4", "optim.max_steps=6", "optim.warmup_steps=2", *more,
    ]  # fmt: skip


def metrics(run_dir: Path | str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def weights(run_dir: Path | str) -> dict[str, Any]:
    """The tensors of RUN/model."""
    from safetensors.torch import load_file

    (file,) = sorted((Path(run_dir) / "model").glob("*.safetensors"))
    tensors: dict[str, Any] = load_file(file)
    return tensors
