"""Throughput on a GPU: plain and N=4, LoRA on an 8B shape and full fine-tuning of a shape that fits; random weights.

    python benchmarks/gpu.py [--quick]

Without CUDA it prints one JSON line that says so. With it: tokens/s, MFU, peak memory and the step's breakdown; N=4 as
trees against packed flat rows under the same attention; and flex against dense against varlen by length of row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from benchmarks.tree_inputs import build_windows, llama_tokenizer, read_dialogues, small_tokenizer, trees_of

SHAPES = {
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the 1B shape only, few dialogues")
    parser.add_argument("--dialogues", type=int, default=32)
    parser.add_argument("--tokens-per-row", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations (for smaller cards)")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(json.dumps({"benchmark": "gpu", "skipped": "no CUDA device", **describe_machine()}))
        return
    tokenizer = llama_tokenizer() or small_tokenizer()
    cases = []
    for size, tuning in [("1B", "full")] if options.quick else [("8B", "lora"), ("1B", "full")]:
        model = build_model(size, tuning, 32_000, options.checkpointing)
        for num_alternatives in (0, 4):
            cases.append(compare(model, size, tuning, tokenizer, num_alternatives, options))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
        if size == "1B":
            backends = by_row(model, tokenizer, options)
        del model
        torch.cuda.empty_cache()
    result = {"benchmark": "gpu", "device": torch.cuda.get_device_name(), "cases": cases, "backends": backends}
    print(json.dumps({**result, **describe_machine()}))


def build_model(size: str, tuning: str, vocab_size: int, checkpointing: bool) -> Any:
    """A LLaMA with random bf16 weights on the GPU, tuned as named."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from extes_train.model.config import FullConfig, LoraConfig
    from extes_train.model.tuning import apply_tuning

    config = LlamaConfig(vocab_size=vocab_size, max_position_embeddings=8192, **SHAPES[size])  # type: ignore[arg-type]
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    return apply_tuning(model, LoraConfig() if tuning == "lora" else FullConfig(), checkpointing).train()


def rows_for(tokenizer: Any, layout: str, num_alternatives: int, tokens_per_row: int, count: int) -> list[Any]:
    """Packed rows on the GPU."""
    from extes_train.model.batch import row_batch_from_arrays
    from extes_train.tokens.rows import pack_rows

    dialogues, _ = read_dialogues(count, num_alternatives)
    trees = trees_of(build_windows(dialogues, tokenizer, min(2048, tokens_per_row), layout))
    return [row_batch_from_arrays(row, "cuda") for row in pack_rows(trees, tokens_per_row)]


def compare(model: Any, size: str, tuning: str, tokenizer: Any, num_alternatives: int, options: Any) -> dict[str, Any]:
    """Trees on the backend that `auto` picks; with alternatives also the flat rows of the same responses."""
    from extes_train.model.attention import use_attention
    from extes_train.model.choosing import visible_pairs
    from extes_train.model.flops import peak_flops, training_flops

    chosen = use_attention(model, "auto", "cuda")
    case: dict[str, Any] = {"shape": size, "tuning": tuning, "alternatives": num_alternatives, "attention": chosen}
    flops = training_flops(model)
    peak = peak_flops(next(model.parameters()).device, "bf16")
    for layout in ("tree", "flat") if num_alternatives else ("tree",):
        rows = rows_for(tokenizer, layout, num_alternatives, options.tokens_per_row, options.dialogues)
        measured = measure(model, rows, options.rounds)
        tokens = sum(row.ids_1T.numel() for row in rows)
        work = flops.count(tokens, sum(len(row.target_Q) for row in rows), sum(map(visible_pairs, rows)))
        measured |= {"tokens": tokens, "tokens_per_s": tokens / measured["seconds"]}
        measured["mfu"] = None if peak is None else work / measured["seconds"] / peak
        case[layout] = measured
    if num_alternatives:
        case["effective_speedup"] = case["flat"]["seconds"] / case["tree"]["seconds"]
    return case


def measure(model: Any, rows: list[Any], rounds: int) -> dict[str, Any]:
    """Median seconds of forward, backward and optimizer over all rows, and peak memory."""
    import torch

    from extes_train.model.config import LossConfig
    from extes_train.model.loss import row_loss

    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-5, fused=True)
    torch.cuda.reset_peak_memory_stats()
    table: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": [], "seconds": []}
    for number in range(rounds + 2):  # two to warm up: compilation, memory
        spent = {"forward": 0.0, "backward": 0.0}
        start = now()
        for row in rows:
            begin = now()
            row.cache.clear()  # masks belong to a step
            loss = row_loss(model, row, LossConfig(chunk_tokens=4096))[0] / 1e4
            middle = now()
            loss.backward()
            spent["forward"] += middle - begin
            spent["backward"] += now() - middle
        begin = now()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spent |= {"optimizer": now() - begin, "seconds": now() - start}
        if number >= 2:
            for name, value in spent.items():
                table[name].append(value)
    found: dict[str, Any] = {name: statistics.median(values) for name, values in table.items()}
    return {**found, "peak_memory_bytes": torch.cuda.max_memory_allocated()}


def now() -> float:
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def by_row(model: Any, tokenizer: Any, options: Any) -> list[dict[str, Any]]:
    """Seconds per step of each backend that runs here, by tokens a row, on the same N=4 trees."""
    from extes_train.errors import ConfigError
    from extes_train.model.attention import use_attention

    results = []
    for tokens_per_row in (1024, 2048, 4096, 8192):
        rows = rows_for(tokenizer, "tree", 4, tokens_per_row, 8)
        for name in ("sdpa", "flex", "varlen"):
            case = {"tokens_per_row": tokens_per_row, "attention": name}
            try:
                use_attention(model, name, "cuda")
                case |= measure(model, rows, options.rounds)
            except ConfigError as error:
                case["skipped"] = str(error)
            results.append(case)
    return results


if __name__ == "__main__":
    main()
