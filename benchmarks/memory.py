"""The memory estimate against measured peaks on CPU: prints one JSON line; with --table, the tables of docs/memory.md.

Each combination trains two steps of a random model in a process of its own; measured is the peak resident set above
what the process had after its imports and the start of its process group.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch.memory import GIB, ModelFacts, Settings, estimate_memory, model_facts  # noqa: E402

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 768, "intermediate_size": 2048,
    "num_hidden_layers": 10, "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 32000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
ROWS_PER_STEP = 2  # the second row meets the first one's gradients, as in a real step
COMBINATIONS = [
    ("full", 512, {}), ("full", 2048, {}), ("lora", 512, {}), ("lora", 2048, {}),
    ("full", 2048, {"gradient_checkpointing": True}), ("lora", 2048, {"dtype": "bf16"}),
]  # fmt: skip


def measure(tuning: str, row_tokens: int, changes: dict[str, Any]) -> int:
    """In the child: two steps; the peak above the baseline."""
    import deepspeed  # noqa: F401
    import peft  # noqa: F401

    from extes_train.composition import compose
    from extes_train.engine.process_group import process_group
    from extes_train.model.batch import row_batch_from_arrays
    from extes_train.training.assembly import build_training_engine

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPE))
        words = [f"model.path={folder}", "model.random_weights=true", f"tuning={tuning}", "zero=zero2"]
        words += [f"model.{key}={str(value).lower()}" for key, value in changes.items()]
        config = compose(words)
        with process_group(config.distributed) as group:
            before = resident("VmRSS")
            engine, _ = build_training_engine(config, group)
            batch = row_batch_from_arrays(synthetic_row(row_tokens), "cpu")
            for _ in range(2):
                start = time.perf_counter()
                for row in range(ROWS_PER_STEP):
                    loss, _ = engine.loss(batch)
                    engine.backward(loss / float(batch.weight_Q.sum()), is_boundary=row == ROWS_PER_STEP - 1)
                engine.step(1e-4)
                print(f"step: {time.perf_counter() - start:.2f} s", file=sys.stderr)
            return resident("VmHWM") - before


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def synthetic_row(tokens: int) -> Any:
    """A row of trees of 512 tokens without alternatives, half of them targets."""
    import numpy as np

    from extes_train.tokens.rows import pack_rows
    from extes_train.tokens.tree import ResponseWeights, build_trees
    from extes_train.tokens.windows import Response, Window

    draw = np.random.default_rng(0)
    trees = []
    for item in range(tokens // 512):
        ids = draw.integers(3, 32000, 512).astype(np.int32)
        responses = [Response(turn, -1, at, ids[at : at + 32], 1, 100) for turn, at in enumerate(range(32, 512, 64))]
        trees += build_trees(Window(item, 0, 16, ids, responses), ResponseWeights(), item=item)
    (row,) = pack_rows(trees, tokens)
    return row


def estimated(tuning: str, row_tokens: int, changes: dict[str, Any]) -> int:
    """What the launcher would have said."""
    settings = Settings(tuning=tuning, row_tokens=row_tokens, row_targets=row_tokens // 2, **changes)
    return estimate_memory(model_facts(SHAPE), settings).device_bytes


def run_all(only: int | None) -> None:
    """One child a combination; one JSON line."""
    rows = []
    for index, (tuning, row_tokens, changes) in enumerate(COMBINATIONS):
        if only is not None and only != index:
            continue
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}  # as in our jobs on CPU
        command = [sys.executable, __file__, "--child", str(index)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        measured, guess = int(done.stdout.split()[-1]), estimated(tuning, row_tokens, changes)
        found = {"tuning": tuning, "row_tokens": row_tokens, **changes, "measured_mib": measured >> 20}
        rows.append(found | {"estimated_mib": guess >> 20, "ratio": round(guess / measured, 3)})
        print(rows[-1], file=sys.stderr)
    print(json.dumps({"benchmark": "memory", "parameters": model_facts(SHAPE).parameters, "combinations": rows}))


MODELS = {
    "Llama-2-7B": ModelFacts(4096, 11008, 32, 32, 32, 128, 32000),
    "Llama-3.1-8B": ModelFacts(4096, 14336, 32, 32, 8, 128, 128256),
    "Llama-2-13B": ModelFacts(5120, 13824, 40, 40, 40, 128, 32000),
    "Llama-3.1-70B": ModelFacts(8192, 28672, 80, 64, 8, 128, 128256),
}
GPUS = (1, 2, 4, 8, 16, 32, 64)


def print_tables() -> None:
    """GiB a GPU in bf16, rows of 4096 tokens, gradient checkpointing."""
    base = Settings(
        dtype="bf16", gradient_checkpointing=True, row_tokens=4096, row_targets=2048, cuda=True,
        max_live_elements=100_000_000,
    )  # fmt: skip
    kinds = [
        ("full, ZeRO-2", {"stage": 2}), ("full, ZeRO-3", {"stage": 3}),
        ("full, ZeRO-3, optimizer on the CPU", {"stage": 3, "offload_optimizer": True}),
        ("LoRA r=8, ZeRO-2", {"tuning": "lora"}), ("LoRA r=8, ZeRO-3", {"tuning": "lora", "stage": 3}),
    ]  # fmt: skip
    for name, facts in MODELS.items():
        print(f"\n### {name} ({facts.parameters / 1e9:.2f} G parameters)\n")
        print("| | " + " | ".join(f"{count} GPU{'s' if count > 1 else ''}" for count in GPUS) + " |")
        print("|---|" + "---|" * len(GPUS))
        for label, changes in kinds:
            cells = []
            for count in GPUS:
                found = estimate_memory(facts, replace(base, world_size=count, **changes))  # type: ignore[arg-type]
                cells.append(f"{found.device_bytes / GIB:.0f}")
            print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=int)
    parser.add_argument("--only", type=int)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_tables()
    elif options.child is not None:
        print(measure(*COMBINATIONS[options.child]))
    else:
        run_all(options.only)
