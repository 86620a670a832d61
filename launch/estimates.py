"""The estimates of a launch: memory against what a rank has, disk, time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes_train.engine.config import running_stage
from extes_train.errors import ExtesError
from launch.audit import Audit
from launch.config import DeepspeedConfig, LauncherConfig, RootConfig, SlurmConfig, TorchrunConfig
from launch.environment import available_cores, visible_gpus
from launch.hardware import CPU_FLOPS_PER_THREAD, USED_SHARE, gpu_of_type, local_gpu
from launch.memory import (
    CUDA_CONTEXT_BYTES,
    GIB,
    PROCESS_BYTES,
    Advice,
    Estimate,
    ModelFacts,
    Settings,
    advise,
    estimate_memory,
    format_bytes,
    trainable_parameters,
)


@dataclass(frozen=True)
class Place:
    """Where ranks run: how many, how many share a node, and what one has. None: not known."""

    world_size: int
    ranks_per_node: int
    cuda: bool
    device_bytes: float | None  # per rank
    node_bytes: float | None  # main memory of a node


@dataclass(frozen=True)
class MemoryCheck:
    """The estimate, what there is, and what to change where it does not fit."""

    estimate: Estimate
    available: float | None
    problem: str | None = None

    def describe(self) -> str:
        """One line."""
        of = f" of {format_bytes(self.available)}" if self.available else "; how much there is, is not known"
        return self.estimate.describe() + of


def check_memory(config: RootConfig, facts: ModelFacts, found: Audit | None) -> MemoryCheck:
    """Estimate `config` on its launcher's ranks, and advise where it does not fit."""
    place = place_of(config.launcher)
    settings = settings_of(config, place, found)
    estimate = estimate_memory(facts, settings)
    available = place.device_bytes
    if fits(estimate, place):
        return MemoryCheck(estimate, available)
    advice = advise(facts, settings, lambda changed: fits(estimate_memory(facts, changed), place))
    return MemoryCheck(estimate, available, _problem(estimate, available, advice, facts, place))


def _problem(
    estimate: Estimate, available: float | None, advice: Advice | None, facts: ModelFacts, place: Place
) -> str:
    there = format_bytes(available) if available else "less"
    text = f"memory: {estimate.describe()} are needed, a rank has {there}; "
    if advice is None:
        return text + "no single or double change makes it fit: more nodes, a larger GPU or a smaller model"
    after = estimate_memory(facts, advice.settings)
    return text + f"the smallest change that fits: {advice.overrides} ({format_bytes(after.device_bytes)} per rank)"


def fits(estimate: Estimate, place: Place) -> bool:
    """True also where it is not known how much there is."""
    if place.device_bytes is not None and estimate.device_bytes > place.device_bytes:
        return False
    if place.cuda and place.node_bytes is not None and estimate.host_bytes:
        return estimate.host_bytes * place.ranks_per_node < place.node_bytes
    return True


def settings_of(config: RootConfig, place: Place, found: Audit | None) -> Settings:
    """The memory model's view of a configuration. Without an audit, the longest row is a full one."""
    tuning: Any = config.tuning
    row = config.tokens.tokens_per_row
    tokens, targets = (found.row_tokens, found.row_targets) if found else (row, row)
    return Settings(
        tuning=tuning.name,
        rank=getattr(tuning, "r", 8),
        target_modules=tuple(getattr(tuning, "target_modules", ())),
        adapter_len=getattr(tuning, "adapter_len", 10),
        dtype=config.model.dtype,
        stage=running_stage(config.zero, config.model.dtype),
        offload_optimizer=config.zero.offload_optimizer != "none",
        offload_parameters=config.zero.offload_parameters != "none",
        bucket_elements=config.zero.reduce_bucket_size,
        max_live_elements=config.zero.stage3_max_live_parameters,
        prefetch_elements=config.zero.stage3_prefetch_bucket_size,
        gradient_checkpointing=config.model.gradient_checkpointing,
        dense_mask=config.model.attention in ("sdpa", "eager"),
        row_tokens=tokens,
        row_targets=targets,
        chunk_tokens=config.loss.chunk_tokens,
        world_size=place.world_size,
        cuda=place.cuda,
    )


def place_of(launcher: LauncherConfig) -> Place:
    """The launcher's ranks and what each has."""
    if isinstance(launcher, SlurmConfig):
        return _place_on_cluster(launcher)
    from launch.training import LOCAL_LAUNCHERS

    processes = LOCAL_LAUNCHERS[launcher.name].processes(launcher)
    remote = isinstance(launcher, DeepspeedConfig) and launcher.hostfile is not None
    if remote:
        return Place(processes, processes, True, None, None)
    gpu = local_gpu() if visible_gpus() and isinstance(launcher, (TorchrunConfig, DeepspeedConfig)) else None
    gpu = gpu or (local_gpu() if visible_gpus() else None)
    node = _main_memory()
    if gpu is not None:
        return Place(processes, processes, True, gpu[1] * GIB - CUDA_CONTEXT_BYTES, node)
    return Place(processes, processes, False, max(0.0, node / processes - PROCESS_BYTES), node)


def _place_on_cluster(launcher: SlurmConfig) -> Place:
    from launch.launchers.slurm import processes, processes_per_node
    from launch.slurm.cluster import memory_per_node_mib, read_cluster

    per_node = processes_per_node(launcher)
    try:
        mib = memory_per_node_mib(launcher, read_cluster())
    except ExtesError:
        mib = None
    node = None if mib is None else mib * 1024.0**2
    if launcher.gpus_per_node:
        gpu = gpu_of_type(launcher.gpu_type) if launcher.gpu_type else None
        gib = launcher.gpu_memory_gib or (gpu.memory_gib if gpu else None)
        device = None if gib is None else gib * GIB - CUDA_CONTEXT_BYTES
        return Place(processes(launcher), per_node, True, device, node)
    device = None if node is None else max(0.0, node / per_node - PROCESS_BYTES)
    return Place(processes(launcher), per_node, False, device, node)


def _main_memory() -> float:
    """Main memory that can still be had on this machine."""
    import psutil

    return float(psutil.virtual_memory().available)


def disk_bytes(config: RootConfig, facts: ModelFacts) -> int:
    """Checkpoints that are kept and one more (fp32 weights that move, and AdamW's moments), and RUN/model."""
    place_independent = Settings(tuning=config.tuning.name, rank=getattr(config.tuning, "r", 8))
    moving = trainable_parameters(facts, place_independent)
    width = 4 if config.model.dtype == "fp32" else 2
    checkpoint = moving * (12 + width)
    return checkpoint * (config.checkpoint.keep_last + 1) + moving * width


def estimate_time(config: RootConfig, facts: ModelFacts, found: Audit) -> str | None:
    """A line about the time, None where no number of steps ends the run."""
    if found.steps is None:
        return None
    place = place_of(config.launcher)
    tokens = found.tokens / max(1, found.windows) * config.optim.dialogues_per_step * found.steps
    measured = measured_rate(Path(config.run_dir))
    if measured is not None:
        rate, source = measured, "measured in this run"
    else:
        rate, source = tabled_rate(config, facts, place), "from a table, good to a factor of two"
    seconds = tokens / rate
    device_hours = seconds / 3600 * place.world_size
    unit = "GPU" if place.cuda else "process"
    return f"about {_duration(seconds)} for {found.steps} steps, {device_hours:.2g} {unit}-hours ({source})"


def measured_rate(run_dir: Path) -> float | None:
    """Median tokens per second of the run's last steps."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return None
    rates = []
    for line in path.read_text(encoding="utf-8").splitlines()[-50:]:
        try:
            rates.append(float(json.loads(line)["tokens_per_s"]))
        except (ValueError, KeyError):
            continue
    return sorted(rates)[len(rates) // 2] if rates else None


def tabled_rate(config: RootConfig, facts: ModelFacts, place: Place) -> float:
    """Tokens per second over all ranks: 6 FLOPs a weight and token, 4 where most weights are frozen."""
    launcher = config.launcher
    flops = facts.parameters * (6.0 if config.tuning.name == "full" else 4.0)
    flops *= 4 / 3 if config.model.gradient_checkpointing else 1
    if place.cuda:
        kind = launcher.gpu_type if isinstance(launcher, SlurmConfig) else (local_gpu() or ("", 0))[0]
        gpu = gpu_of_type(kind or "") or gpu_of_type("a100")
        assert gpu is not None
        return place.world_size * gpu.teraflops * 1e12 * USED_SHARE / flops
    if isinstance(launcher, SlurmConfig):
        threads = (launcher.cpus_per_task or place.ranks_per_node) * launcher.nodes
    else:
        threads = available_cores()
    return threads * CPU_FLOPS_PER_THREAD[config.model.dtype] / flops


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
