"""Throughput on a GPU: plain and N=4, LoRA on an 8B shape and full fine-tuning of a shape that fits; random weights.

    python benchmarks/gpu.py [--minutes 8] [--quick] [--rehearse]

Without CUDA it prints one JSON line that says so; with `--rehearse` it runs the same code on a CPU at a tiny size. On a
GPU: tokens/s, MFU, peak memory and the step's parts; N=4 as trees against the same responses as flat rows, packed,
under the same flash attention, with the same loss and gradients; norms and MLPs compiled or not; and attention alone
by backend and length of row. bf16 with fp32 master weights, adapters in bf16, as training has it. A case that fails
says why and the others go on; so far as time allows, the most important ones run first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.attention_choice import build_row
from benchmarks.gpu_step import Clock, Measured, difference, first_that_fits, free_memory, measure
from benchmarks.machine import describe_machine
from benchmarks.tree_inputs import build_windows, llama_tokenizer, read_dialogues, small_tokenizer, trees_of

SHAPES: dict[str, dict[str, Any]] = {
    "8B": {  # Llama 3.1's
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32_000,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 2048,
    },
}  # fmt: skip
TARGETS = {("8B", "lora", 0): {"target_tokens_per_s": 12_500}, ("8B", "lora", 4): {"target_effective_speedup": 6.0}}
ESCONV_TURNS = 23  # of a dialogue on average, 12 of them the supporter's
SAME_LOSS, SAME_GRADIENTS = 0.005, 0.05  # relative; what bf16 leaves of equal work


@dataclass(frozen=True)
class Setting:
    """How a case is made to fit into memory."""

    checkpointing: bool
    tokens_per_row: int


@dataclass
class Run:
    """What all cases share."""

    device: torch.device
    tokenizer: Any
    dialogues: dict[int, list[Any]]  # number of alternatives -> dialogues
    options: argparse.Namespace
    ends: float  # time.monotonic()

    def left_s(self) -> float:
        """Seconds until no new case starts."""
        return self.ends - time.monotonic()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    result: dict[str, Any] = {"benchmark": "gpu", "rehearsal": options.rehearse, "cases": [], "backends": []}
    if not options.rehearse and not torch.cuda.is_available():
        result = {"benchmark": "gpu", "skipped": "no CUDA device"}
    else:
        measure_all(prepare(options), result)
    result |= describe_machine()
    print(json.dumps(result), flush=True)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="no case starts after so long")
    parser.add_argument("--quick", action="store_true", help="the first two cases only: the 8B shape as it is")
    parser.add_argument("--rehearse", action="store_true", help="every line on a CPU, at a tiny size")
    parser.add_argument("--dialogues", type=int, default=32, help="of a step without alternatives; with N=4 a quarter")
    parser.add_argument("--tokens-per-row", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.rehearse:
        options.dialogues, options.tokens_per_row, options.rounds = 4, 1024, 2
    return options


def prepare(options: argparse.Namespace) -> Run:
    """Dialogues, tokenizer and device."""
    ends = time.monotonic() + 60 * options.minutes
    device = torch.device("cpu") if options.rehearse else torch.device("cuda", torch.cuda.current_device())
    counts = {0: options.dialogues, 4: max(1, options.dialogues // 4)}
    dialogues = {n: dialogues_for(count, n) for n, count in counts.items()}
    if options.rehearse:
        for dialogue in (dialogue for found in dialogues.values() for dialogue in found):
            dialogue.turns = dialogue.turns[:8]
    tokenizer = (None if options.rehearse else llama_tokenizer()) or small_tokenizer()
    return Run(device, tokenizer, dialogues, options, ends)


def dialogues_for(count: int, num_alternatives: int) -> list[Any]:
    """ESConv's, or shipped seeds joined in pairs to its mean length: theirs alone are a third shorter."""
    dialogues, source = read_dialogues(None, num_alternatives)
    if not source.startswith("ESConv"):
        for first, second in zip(dialogues[::2], dialogues[1::2]):
            first.turns = (first.turns + second.turns)[: ESCONV_TURNS + 1]
        dialogues = dialogues[::2]
    return dialogues[:count]


def measure_all(run: Run, result: dict[str, Any]) -> None:
    """Every case while time is left; what ends a case early ends up in it."""
    result["device"] = torch.cuda.get_device_name() if run.device.type == "cuda" else "cpu"
    result["cuda"] = torch.version.cuda
    result["dialogues"] = {n: len(found) for n, found in run.dialogues.items()}
    big, small = ("tiny", "tiny") if run.options.rehearse else ("8B", "1B")
    plan = [(big, "lora", False), (small, "full", False), (big, "lora", True), (small, "full", True)]
    try:
        with stoppable(run):
            for size, tuning, compiled in plan[:1] if run.options.quick else plan:
                if compiled and not result["backends"]:
                    result["backends"] += by_row(run)
                result["cases"] += model_cases(run, size, tuning, compiled)
                free_memory(run.device)
    except TimeoutError as error:  # between two cases
        result["stopped"] = str(error)


@contextlib.contextmanager
def stoppable(run: Run) -> Iterator[None]:
    """SIGTERM, or a minute more than was allowed, ends the case that runs; the JSON line is still printed."""

    def stop(kind: int, _frame: Any) -> None:
        run.ends = 0.0
        raise TimeoutError(f"stopped by {signal.Signals(kind).name}")

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_REAL, run.left_s() + 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def model_cases(run: Run, size: str, tuning: str, compiled: bool) -> list[dict[str, Any]]:
    """One model, without and with alternatives."""
    named = {"shape": size, "tuning": tuning, "compiled": compiled}
    built: list[Any] = []

    def build(case: dict[str, Any]) -> None:
        built.append(build_model(run, size, tuning))
        if compiled:
            from extes_train.model.compiling import compile_layers

            case["compiled_parts"] = compile_layers(
                built[0], zero_stage=2, backend="aot_eager" if run.options.rehearse else "inductor"
            )

    making = attempt_case(run, named | {"case": "build"}, build)
    if "error" in making or "skipped" in making:
        return [making]
    cases = []
    rows = run.options.tokens_per_row
    settings = [Setting(False, rows), Setting(True, rows), Setting(True, rows // 2)]
    for num_alternatives in (0, 4):
        start: dict[str, Any] = {**named, "alternatives": num_alternatives}
        start |= TARGETS.get((size, tuning, num_alternatives), {})

        def compare(case: dict[str, Any], n: int = num_alternatives) -> None:
            found, failed = first_that_fits(settings, lambda it: compare_layouts(run, built[0], n, it), run.device)
            case |= found
            if failed:
                case["out_of_memory"] = [vars(setting) for setting in failed]
                del settings[: len(failed)]  # checkpointing stays switched on

        cases.append(attempt_case(run, start, compare))
    return cases


def attempt_case(run: Run, case: dict[str, Any], fill: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """`case` with what `fill` measures, or with the reason why there is nothing; to stderr as it is done."""
    began = time.monotonic()
    if run.left_s() <= 0:
        case["skipped"] = f"no time left of {run.options.minutes} minutes"
    else:
        try:
            fill(case)
        except Exception as error:
            case["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    case["took_s"] = round(time.monotonic() - began, 1)
    print(json.dumps(case), file=sys.stderr, flush=True)
    return case


def build_model(run: Run, size: str, tuning: str) -> Any:
    """A LLaMA with random bf16 weights, tuned as named. peft makes adapters fp32; DeepSpeed casts them, so here too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from extes_train.model.attention import use_attention
    from extes_train.model.config import FullConfig, LoraConfig
    from extes_train.model.tuning import apply_tuning

    torch.manual_seed(0)
    config = LlamaConfig(max_position_embeddings=8192, **SHAPES[size])
    with torch.device(run.device):
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    tuned = apply_tuning(model, LoraConfig() if tuning == "lora" else FullConfig()).train()
    for parameter in tuned.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    use_attention(tuned, "auto", run.device)
    return tuned


def compare_layouts(run: Run, model: Any, num_alternatives: int, setting: Setting) -> dict[str, Any]:
    """Trees, and with alternatives also the flat rows of the same responses. May run out of memory."""
    from extes_train.model.tuning import enable_gradient_checkpointing

    if setting.checkpointing:
        enable_gradient_checkpointing(model)
    case: dict[str, Any] = {**vars(setting), "parameters": sum(p.numel() for p in model.parameters())}
    measured: dict[str, Measured] = {}
    for layout in ("tree", "flat") if num_alternatives else ("tree",):
        rows = rows_for(run, layout, num_alternatives, setting.tokens_per_row)
        # flat rows are nine times as many: fewer rounds of them
        found = measured[layout] = measure(model, rows, run.options.rounds, 0.1 * 60 * run.options.minutes)
        case[layout] = describe(model, rows, found)
    case["tokens_per_s"] = case["tree"]["tokens_per_s"]
    if num_alternatives:
        tree, flat = measured["tree"], measured["flat"]
        case["token_ratio"] = case["flat"]["tokens"] / case["tree"]["tokens"]
        case["effective_speedup"] = flat.total / tree.total
        case["flat_tokens_per_s"] = case["flat"]["tokens"] / tree.total  # of the samples that the trees stand for
        case["loss_diff"] = abs(tree.loss - flat.loss) / abs(flat.loss)
        case |= difference(tree.gradients, flat.gradients)
        case["same_work"] = case["loss_diff"] <= SAME_LOSS and case["grad_diff"] <= SAME_GRADIENTS
    return case


def rows_for(run: Run, layout: str, num_alternatives: int, tokens_per_row: int) -> list[Any]:
    """Packed rows on the device."""
    from extes_train.model.batch import row_batch_from_arrays
    from extes_train.tokens.rows import pack_rows

    windows = build_windows(run.dialogues[num_alternatives], run.tokenizer, tokens_per_row // 4, layout)
    return [row_batch_from_arrays(row, run.device) for row in pack_rows(trees_of(windows), tokens_per_row)]


def describe(model: Any, rows: list[Any], found: Measured) -> dict[str, Any]:
    """Throughput of a layout. MFU counts what the rows need, recomputation not (extes_train/model/flops.py)."""
    from extes_train.model.choosing import describe_attention, visible_pairs
    from extes_train.model.flops import peak_flops, training_flops

    tokens, targets = sum(row.ids_1T.numel() for row in rows), sum(len(row.target_Q) for row in rows)
    work = training_flops(model).count(tokens, targets, sum(map(visible_pairs, rows)))
    peak = peak_flops(rows[0].device, "bf16")
    return {
        "tokens": tokens, "targets": targets, "rows": len(rows), "tokens_per_s": tokens / found.total,
        "seconds": found.total, **found.seconds, "host_seconds": found.host_seconds, "rounds": found.rounds,
        "loss": found.loss,
        "tflops_per_s": work / found.total / 1e12, "mfu": None if peak is None else work / found.total / peak,
        "peak_memory_bytes": found.peak_memory_bytes, "attention": describe_attention(model, rows),
    }  # fmt: skip


def by_row(run: Run) -> list[dict[str, Any]]:
    """Milliseconds of one layer's attention, forward and backward, by backend and length; heads of the 8B shape."""
    from extes_train.model.trial import Heads

    tiny = run.options.rehearse
    heads = Heads(4, 2, 16, torch.bfloat16, run.device) if tiny else Heads(32, 8, 128, torch.bfloat16, run.device)
    cases = []
    for name in ("structured", "sdpa", "varlen", "flex"):  # flex last: its kernels are compiled first
        for tokens in (256, 512) if tiny else (1024, 2048, 4096, 8192):
            for alternatives in (0, 4):
                case = {"attention": name, "tokens_per_row": tokens, "alternatives": alternatives}
                row = build_row(tokens, alternatives, 30).to(run.device)

                def fill(it: dict[str, Any], name: str = name, row: Any = row) -> None:
                    it |= attention_ms(name, row, heads)

                cases.append(attempt_case(run, case, fill))
    return cases


def attention_ms(name: str, row: Any, heads: Any, rounds: int = 10) -> dict[str, Any]:
    """Median milliseconds, or why the backend cannot be used here."""
    from extes_train.model.attention import dense_tree_attention, tree_backend
    from extes_train.model.choosing import visible_pairs
    from extes_train.model.trial import failure

    reason = None if name == "sdpa" else failure(name, heads)
    if reason is not None:
        return {"skipped": reason}
    function = dense_tree_attention if name == "sdpa" else tree_backend(name)
    length = row.tree_T.numel()

    def draw(count: int) -> Any:
        return torch.randn(1, length, count, heads.size, device=row.device, dtype=heads.dtype).transpose(1, 2)

    leaves = [draw(count).requires_grad_() for count in (heads.queries, heads.keys, heads.keys)]
    probe = torch.randn(1, length, heads.queries, heads.size, device=row.device, dtype=heads.dtype)
    took = []
    for _ in range(rounds + 3):
        clock = Clock(row.device)
        clock.mark("start")
        torch.autograd.grad(function(*leaves, row, None, 0.0), leaves, probe)
        clock.mark("layer")
        took.append(1e3 * clock.seconds()["layer"])
    return {"tokens": length, "pairs": visible_pairs(row), "milliseconds": statistics.median(took[3:])}


if __name__ == "__main__":
    main()
