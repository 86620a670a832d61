"""One trainer on one case of benchmarks/peers.py: a child process with a time limit, whose result is kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tree_inputs import ROOT

LOOK_EVERY_S = 10.0
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}  # where there is a GPU, nobody takes it
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """The same dialogues for every trainer, as files in `folder`."""

    folder: Path
    facts: dict[str, Any]  # what the JSON line says of the case
    dtype: str
    context: int
    settings: dict[str, Any]  # peer_worker.py's, without the files of one peer
    dialogues_per_step: int
    threads: int
    limit_s: float
    resume: bool

    def digest(self) -> str:
        """Of all that a result depends on."""
        digest = hashlib.sha256(json.dumps([self.settings, self.dialogues_per_step], sort_keys=True).encode())
        for name in ("samples.jsonl", "dialogues.jsonl"):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:16]


def run_peer(case: Case, peer: str, python: str) -> Result:
    """One epoch of `peer`: {"seconds", "targets", ...}, or {"error"}, or {"seconds_at_least"} at the time limit."""
    out = case.folder / peer
    files = {"out": str(out), "progress": str(case.folder / f"{peer}.progress.json")}
    settings, found = case.folder / f"{peer}.settings.json", case.folder / f"{peer}.found.json"

    def command() -> list[str]:
        for path in (Path(files["progress"]), found):
            path.unlink(missing_ok=True)
        settings.write_text(json.dumps({**case.settings, **files}), encoding="utf-8")
        return [python, str(ROOT / "benchmarks/peer_worker.py"), peer, str(settings), str(found)]

    return kept(case, peer, command, lambda: json.loads(found.read_text("utf-8")), Path(files["progress"]))


def run_ours(case: Case, name: str) -> Result:
    """`extes_train.train` on the same dialogues; its cost.json."""
    run = case.folder / name.replace(" ", "-")
    bf16 = case.dtype == "bf16"
    words = [
        f"run_dir={run}", f"data.train={case.folder / 'dialogues.jsonl'}", "data.valid_fraction=0.0",
        "data.taxonomy=any", "data.leak_check=false", f"model.path={case.settings['model']}",
        f"model.context_length={case.context}", "model.chat_template=plain", f"model.dtype={case.dtype}",
        "tokens.too_long=truncate_response", "tokens.min_left_context=0", f"tokens.tokens_per_row={2 * case.context}",
        "augmentation=dri", "tuning=full", f"zero=zero{1 if bf16 else 0}", "tracker=none", "optim.epochs=1",
        f"optim.dialogues_per_step={case.dialogues_per_step}", "optim.lr=1e-4", "optim.weight_decay=0.0",
        "optim.clip_norm=1.0", "optim.schedule=cosine", "optim.warmup_steps=0", "checkpoint.at_end=false",
    ]  # fmt: skip

    def command() -> list[str]:
        shutil.rmtree(run, ignore_errors=True)
        return [sys.executable, "-m", "extes_train.train", *words]

    def read() -> Result:
        cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
        return {
            "seconds": cost["train_seconds"], "targets": cost["targets"], "positions": cost["tokens"],
            "steps": cost["steps"], "settings": f"trees, rows of {2 * case.context}",
            "precision": "bf16 weights and activations, fp32 master weights and gradient sums (ZeRO-1)"
            if bf16 else "fp32 (ZeRO-0)",
        }  # fmt: skip

    return kept(case, name, command, read, None)


def kept(
    case: Case, name: str, command: Callable[[], list[str]], read: Callable[[], Result], progress: Path | None
) -> Result:
    """The result kept from an earlier run of the same case where that is wanted, else a new one, kept."""
    path, digest = case.folder / f"{name.replace(' ', '-')}.result.json", case.digest()
    if case.resume and path.is_file():
        found: Result = json.loads(path.read_text(encoding="utf-8"))
        complete = "seconds" in found or found.get("limit_s", 0.0) >= case.limit_s
        if found.pop("digest") == digest and complete:
            return {**found, "kept": True}
    result = supervised(case, name, command(), read, progress)
    path.write_text(json.dumps({**result, "digest": digest}), encoding="utf-8")
    return result


def supervised(
    case: Case, name: str, command: list[str], read: Callable[[], Result], progress: Path | None
) -> Result:  # fmt: skip
    """Run `command` with its output in a log, saying every LOOK_EVERY_S where it is; ended at the time limit."""
    log = case.folder / f"{name.replace(' ', '-')}.log"
    started, said = time.monotonic(), ""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment(case.threads),
            start_new_session=True,
        )  # fmt: skip
        try:
            while True:
                left = case.limit_s - (time.monotonic() - started)
                try:
                    code = process.wait(max(0.0, min(LOOK_EVERY_S, left)))
                    break
                except subprocess.TimeoutExpired:
                    if left <= 0:
                        return {**at_least(progress), "limit_s": case.limit_s}
                    last = last_line(log)
                    if last != said:
                        print(f"  {name} {time.monotonic() - started:.0f} s: {last}", file=sys.stderr, flush=True)
                        said = last
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        return {"error": log.read_text(encoding="utf-8", errors="replace").strip()[-600:]}
    return {**read(), "process_seconds": time.monotonic() - started}


def at_least(progress: Path | None) -> Result:
    """What is known of a training that was ended: the seconds it had trained for, and how far it was."""
    if progress is None or not progress.is_file():
        return {"error": "ended at the time limit before training began"}
    found = json.loads(progress.read_text(encoding="utf-8"))
    known = {"seconds_at_least": time.time() - found["began"], "steps_done": found["step"], "steps": found["steps"]}
    if found["step"]:
        known["seconds_extrapolated"] = (found["now"] - found["began"]) / found["step"] * found["steps"]
    return known


def last_line(log: Path) -> str:
    """The end of a log, for a line of progress."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][-120:] if lines else ""


def environment(threads: int) -> dict[str, str]:
    """Of every trainer alike."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **CPU_ONLY, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", **offline}
