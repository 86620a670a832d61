"""Peak memory of every rank while a model is loaded under ZeRO-3, into partitions and whole: prints one JSON line.

Each combination starts its ranks anew, on files of random weights made for it; measured is the peak resident set above
what the process had after its imports and the start of its process group, until the engine stands.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import socket
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from benchmarks.memory import resident
from launch.environment import worker_environment

LAYERS, WIDTH, VOCABULARY = 16, 1024, 32000


def write_model(folder: str, layers: int, dtype: str) -> int:
    """Random weights of a Llama in `folder`; returns how many."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2816, num_hidden_layers=layers,
        num_attention_heads=16, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(shape).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    model.save_pretrained(folder, max_shard_size="500MB")
    return sum(parameter.numel() for parameter in model.parameters())


def measure(folder: str, tuning: str, dtype: str, whole: bool) -> dict[str, int]:
    """In a child, one of the ranks: MiB at the peak and at the end of loading, and of the engine's start."""
    for package in ("deepspeed", "peft"):  # so that their imports count for nothing
        importlib.import_module(package)

    from extes_train.engine import engine as engines
    from extes_train.engine import partitioned_loading
    from extes_train.engine.process_group import process_group
    from extes_train.training.assembly import build_training_engine
    from launch.composing import compose_request

    words = [f"model.path={folder}", f"model.dtype={dtype}", f"tuning={tuning}", "zero=zero3"]
    config = compose_request(words).config
    found: dict[str, int] = {}
    build = engines.build_engine
    if whole:
        partitioned_loading.load_partitioned = lambda *_: None

    def looking(*arguments: Any) -> Any:
        found.update(loading_peak=resident("VmHWM") - before, loaded=resident("VmRSS") - before)
        return build(*arguments)

    engines.build_engine = looking
    with process_group(config.distributed) as group:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        build_training_engine(config, group)
        found |= {"peak": resident("VmHWM") - before, "engine": resident("VmRSS") - before}
    return {key: value >> 20 for key, value in found.items()}


def run(arguments: list[str], ranks: int) -> list[dict[str, int]]:
    """What every rank measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(ranks):
        environment = {**worker_environment({}, ranks, None), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        environment |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
        command = [sys.executable, __file__, "--child", *arguments]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{arguments}: failed (above)")
    return [json.loads(text.splitlines()[-1]) for text in said]


def main() -> None:
    """All combinations, or as a child one rank of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=LAYERS, help="decoder layers (default %(default)s)")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tunings", nargs="+", default=["full", "lora"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder, tuning, dtype, whole = given.child
        print(json.dumps(measure(folder, tuning, dtype, whole == "whole")))
        return
    rows = []
    for dtype in given.dtypes:
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed greets there
                parameters = write_model(folder, given.layers, dtype)
            for tuning, way in product(given.tunings, ("whole", "parts")):
                rows.append({"tuning": tuning, "dtype": dtype, "loaded": way})
                rows[-1]["mib_by_rank"] = run([folder, tuning, dtype, way], given.ranks)
                print(rows[-1], file=sys.stderr)
    result = {"benchmark": "partitioned_loading", "parameters": parameters, "combinations": rows}
    print(json.dumps({**result, **describe_machine()}))


if __name__ == "__main__":
    main()
