"""The memory estimate against measured peaks on CPU: prints one JSON line; with --table, the tables of docs/memory.md.

Each combination trains two steps of a random model in a process of its own; measured is the peak resident set above
what the process had after its imports and the start of its process group.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch.audit import Audit  # noqa: E402
from launch.environment import worker_environment  # noqa: E402
from launch.estimates import Place, settings_of  # noqa: E402
from launch.memory import GIB, ModelFacts, Settings, estimate_memory, model_facts  # noqa: E402

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 768, "intermediate_size": 2048,
    "num_hidden_layers": 10, "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 32000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
ROWS_PER_STEP = 2  # the second row meets the first one's gradients, as in a real step


@dataclass(frozen=True)
class Combination:
    """What is trained. `alternatives`: to every response, as trees; `words`: further overrides."""

    tuning: str = "full"
    row_tokens: int = 2048
    zero: str = "zero2"
    ranks: int = 1
    alternatives: int = 0
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.tuning, self.zero, f"row {self.row_tokens}", f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"]
        parts += [f"N={self.alternatives}"] if self.alternatives else []
        return ", ".join([*parts, *self.words])


CHECKPOINTING, BF16 = "model.gradient_checkpointing=true", "model.dtype=bf16"
COMBINATIONS = [
    Combination("full", 512), Combination("full"), Combination("lora", 512), Combination("lora"),
    Combination("full", words=(CHECKPOINTING,)), Combination("lora", words=(BF16,)),
    Combination("full", 512, "zero0", 2), Combination("full", 512, "zero1", 2), Combination("full", 512, "zero2", 2),
    Combination("full", 512, "zero3", 2), Combination("lora", 512, "zero3", 2),
    Combination("lora", words=(CHECKPOINTING,)), Combination("full", 512, words=(BF16,)),
    Combination("full", alternatives=4), Combination("lora", alternatives=4),
    Combination("full", 512, "zero2_offload"), Combination("full", 512, "zero3_offload"),
    Combination("full", 512, "zero0"), Combination("dora", 512), Combination("adapter", 512),
]  # fmt: skip


def measure(index: int) -> None:
    """In a child, one of the ranks: two steps; prints the peak above the baseline."""
    import deepspeed  # noqa: F401
    import peft  # noqa: F401

    from extes_train.engine.process_group import process_group
    from extes_train.model.batch import row_batch_from_arrays
    from extes_train.training.assembly import build_training_engine

    combination = COMBINATIONS[index]
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(combination, folder)
        with process_group(config.distributed) as group:
            before = resident("VmRSS")
            engine, _ = build_training_engine(config, group)
            batch = row_batch_from_arrays(synthetic_row(combination), "cpu")
            for _ in range(2):
                start = time.perf_counter()
                for row in range(ROWS_PER_STEP):
                    loss, _ = engine.loss(batch)
                    engine.backward(loss / float(batch.weight_Q.sum()), is_boundary=row == ROWS_PER_STEP - 1)
                engine.step(1e-4)
                print(f"step: {time.perf_counter() - start:.2f} s", file=sys.stderr)
            print(resident("VmHWM") - before)


def configuration(combination: Combination, folder: str) -> Any:
    """The run's, with a model of SHAPE in `folder`."""
    from launch.composing import compose_request

    (Path(folder) / "config.json").write_text(json.dumps(SHAPE))
    words = [f"model.path={folder}", "model.random_weights=true", f"tuning={combination.tuning}"]
    return compose_request([*words, f"zero={combination.zero}", *combination.words]).config


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def synthetic_row(combination: Combination) -> Any:
    """A row of trees whose trunks are half targets; shorter trunks where alternatives take their part of the row."""
    import numpy as np

    from extes_train.tokens.rows import pack_rows
    from extes_train.tokens.tree import ResponseWeights, build_trees
    from extes_train.tokens.windows import Response, Window

    draw = np.random.default_rng(0)
    extra = combination.alternatives
    trunk = 512 if not extra else 64 * max(1, round(512 / (64 + 32 * extra)))
    trees, size = [], trunk + (trunk // 64) * 32 * extra
    for item in range(combination.row_tokens // size):
        ids = draw.integers(3, 32000, trunk).astype(np.int32)
        responses = []
        for turn, at in enumerate(range(32, trunk, 64)):
            responses.append(Response(turn, -1, at, ids[at : at + 32], 1, 100))
            others = draw.integers(3, 32000, (extra, 32)).astype(np.int32)
            responses += [Response(turn, i, at, other, 1, 100) for i, other in enumerate(others)]
        trees += build_trees(Window(item, 0, 16, ids, responses), ResponseWeights(), item=item)
    (row,) = pack_rows(trees, combination.row_tokens)
    return row


def estimated(combination: Combination) -> int:
    """What the launcher would have said, of a row as its audit finds it."""
    row = synthetic_row(combination)
    found = Audit(error=None, row_tokens=row.num_tokens, row_targets=row.num_targets)
    place = Place(combination.ranks, combination.ranks, False, None, None)
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(configuration(combination, folder), place, found)
    return estimate_memory(model_facts(SHAPE), settings).device_bytes


def peak(index: int) -> int:
    """The largest rank's."""
    combination, children = COMBINATIONS[index], []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for rank in range(combination.ranks):
        environment = {**worker_environment({}, combination.ranks, None), "MASTER_ADDR": "127.0.0.1"}
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(combination.ranks), "MASTER_PORT": port}
        environment |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(combination.ranks)}
        command = [sys.executable, __file__, "--child", str(index)]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{combination}: failed (above)")
    return max(int(text.split()[-1]) for text in said)


def run_all(only: list[int] | None) -> None:
    """A child a rank; one JSON line."""
    rows = []
    for index in only or range(len(COMBINATIONS)):
        combination = COMBINATIONS[index]
        guess, measured = estimated(combination), peak(index)
        found = {"combination": str(combination), "measured_mib": measured >> 20, "estimated_mib": guess >> 20}
        rows.append(found | {"ratio": round(guess / measured, 3)})
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
    parser.add_argument("--only", type=int, nargs="+", help="numbers of combinations")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_tables()
    elif options.child is not None:
        measure(options.child)
    else:
        run_all(options.only)
