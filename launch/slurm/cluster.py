"""What the cluster can give, and whether a job fits into it: refused here, before it pends for ever."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from extes_train.errors import LaunchError, did_you_mean
from launch.config import SlurmConfig
from launch.slurm.commands import key_values, run_command

MIN_MARGIN_S = 60  # Slurm sends the signal up to 12 s early or 10 s late


@dataclass(frozen=True)
class Partition:
    """A line of `scontrol show partition`."""

    name: str
    default: bool
    up: bool
    max_seconds: int | None  # None: unlimited
    max_nodes: int | None


@dataclass(frozen=True)
class Node:
    """A line of `scontrol show node`."""

    name: str
    partitions: tuple[str, ...]
    cpus: int
    memory_mib: int
    gpus: int
    gpu_types: tuple[str, ...]
    usable: bool


@dataclass(frozen=True)
class Cluster:
    """Partitions and nodes."""

    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]


def read_cluster() -> Cluster:
    """Ask the controller."""
    partitions = run_command(["scontrol", "show", "partition", "--oneliner"])
    nodes = run_command(["scontrol", "show", "node", "--oneliner"])
    return Cluster(
        tuple(parse_partition(line) for line in partitions.splitlines() if line.strip()),
        tuple(parse_node(line) for line in nodes.splitlines() if line.strip()),
    )


def parse_partition(line: str) -> Partition:
    """One line of scontrol."""
    facts = key_values(line)
    nodes = facts.get("MaxNodes", "UNLIMITED")
    return Partition(
        facts["PartitionName"], facts.get("Default") == "YES", facts.get("State", "UP") == "UP",
        parse_time(facts.get("MaxTime", "UNLIMITED")), int(nodes) if nodes.isdigit() else None,
    )  # fmt: skip


def parse_node(line: str) -> Node:
    """One line of scontrol. Gres looks like gpu:4, gpu:a100:4(S:0-1) or (null)."""
    facts = key_values(line)
    gpus = re.findall(r"gpu:(?:([^:,()]+):)?(\d+)", facts.get("Gres", ""))
    state = facts.get("State", "")
    return Node(
        facts["NodeName"],
        tuple(facts.get("Partitions", "").split(",")),
        int(facts.get("CPUTot", "0")),
        int(facts.get("RealMemory", "0")),
        sum(int(count) for _, count in gpus),
        tuple(kind for kind, _ in gpus if kind),
        not re.search(r"DOWN|DRAIN|FAIL|UNKNOWN|NOT_RESPONDING|\*", state),
    )


def parse_time(text: str) -> int | None:
    """Seconds of Slurm's time formats (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S); None for UNLIMITED.

    Raises LaunchError for anything else.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise LaunchError(f"launcher.time_limit={text}: write HOURS:MINUTES:SECONDS, e.g. 12:00:00, or 2-00:00:00")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(numbers) == 1:
        return numbers[0] * 60
    if len(numbers) == 2:
        return numbers[0] * 60 + numbers[1]
    return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]


def format_time(seconds: int) -> str:
    """D-HH:MM:SS, days left out where there are none."""
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text


def parse_memory_mib(text: str) -> int:
    """MiB of sbatch's --mem: a number with K, M, G or T; M without."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if not match:
        raise LaunchError(f"launcher.memory={text}: write a number with K, M, G or T, e.g. 64G")
    return int(int(match.group(1)) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match.group(2)])


def check_request(launcher: SlurmConfig, cluster: Cluster) -> list[str]:
    """What of `launcher` this cluster cannot serve, each with what to do; [] when it can."""
    partition = find_partition(launcher, cluster)
    if isinstance(partition, str):
        return [partition]
    return [*check_time(launcher, partition), *check_nodes(launcher, partition, cluster)]


def find_partition(launcher: SlurmConfig, cluster: Cluster) -> Partition | str:
    """The partition, or what is wrong with the choice."""
    names = [partition.name for partition in cluster.partitions]
    if launcher.partition is None:
        default = [partition for partition in cluster.partitions if partition.default]
        if default:
            return default[0]
        return f"launcher.partition: this cluster has no default one; choose from {', '.join(names)}"
    wanted = launcher.partition.split(",")[0]
    for partition in cluster.partitions:
        if partition.name == wanted:
            if partition.up:
                return partition
            others = ", ".join(other.name for other in cluster.partitions if other.up)
            return f"launcher.partition={wanted}: is not up; choose from {others}"
    hint = did_you_mean(wanted, names)
    return f"launcher.partition={wanted}: no such partition{hint}; choose from {', '.join(names)}"


def check_time(launcher: SlurmConfig, partition: Partition) -> list[str]:
    """The time limit against the partition's, and the margin of the signal."""
    limit = parse_time(launcher.time_limit)
    problems = []
    if partition.max_seconds is not None and (limit is None or limit > partition.max_seconds):
        allowed = format_time(partition.max_seconds)
        problems.append(
            f"launcher.time_limit={launcher.time_limit}: partition {partition.name} allows {allowed}; set "
            f"launcher.time_limit={allowed}: the run checkpoints before it and requeues itself"
        )
    if limit is not None and launcher.signal_margin_s >= limit:
        problems.append(
            f"launcher.signal_margin_s={launcher.signal_margin_s}: must be less than launcher.time_limit="
            f"{launcher.time_limit} ({limit} s)"
        )
    return problems


def check_nodes(launcher: SlurmConfig, partition: Partition, cluster: Cluster) -> list[str]:
    """Enough nodes, each with the GPUs, cores and memory asked for."""
    nodes = [node for node in cluster.nodes if partition.name in node.partitions]
    if partition.max_nodes is not None and launcher.nodes > partition.max_nodes:
        return [f"launcher.nodes={launcher.nodes}: partition {partition.name} allows {partition.max_nodes}"]
    for key, wanted, offers in _wishes(launcher, nodes):
        fitting = sum(offer >= wanted for offer in offers)
        if fitting < launcher.nodes:
            most = max(offers, default=0)
            return [
                f"launcher.{key}: partition {partition.name} has {fitting} such nodes, launcher.nodes={launcher.nodes} "
                f"are asked for; the most that a node offers is {most}"
            ]
    if launcher.gpu_type and launcher.gpus_per_node:
        kinds = sorted({kind for node in nodes for kind in node.gpu_types})
        if kinds and launcher.gpu_type not in kinds:
            return [f"launcher.gpu_type={launcher.gpu_type}: {partition.name} has {', '.join(kinds)}"]
    if len(nodes) < launcher.nodes:
        return [
            f"launcher.nodes={launcher.nodes}: partition {partition.name} has {len(nodes)}; set launcher.nodes="
            f"{len(nodes)} or choose another partition"
        ]
    usable = sum(node.usable for node in nodes)
    if usable < launcher.nodes:
        return [f"launcher.nodes={launcher.nodes}: only {usable} of {partition.name}'s {len(nodes)} nodes are up"]
    return []


def _wishes(launcher: SlurmConfig, nodes: Sequence[Node]) -> list[tuple[str, int, list[int]]]:
    """(key=value as written, amount per node, what each node offers)."""
    if len(nodes) < launcher.nodes:
        return []  # said more clearly by the caller
    wishes = []
    if launcher.gpus_per_node:
        wishes.append((f"gpus_per_node={launcher.gpus_per_node}", launcher.gpus_per_node, [n.gpus for n in nodes]))
    processes = launcher.processes_per_node or max(1, launcher.gpus_per_node)
    cpus = launcher.cpus_per_task or processes
    wishes.append((f"cpus_per_task={cpus}", cpus, [node.cpus for node in nodes]))
    if launcher.memory:
        wishes.append(
            (f"memory={launcher.memory} (MiB)", parse_memory_mib(launcher.memory), [n.memory_mib for n in nodes])
        )
    return wishes


def memory_per_node_mib(launcher: SlurmConfig, cluster: Cluster) -> int | None:
    """Main memory a job gets on a node: what it asks for, else the smallest usable node of the partition."""
    if launcher.memory:
        return parse_memory_mib(launcher.memory) or None
    partition = find_partition(launcher, cluster)
    if isinstance(partition, str):
        return None
    return min((node.memory_mib for node in cluster.nodes if partition.name in node.partitions), default=None)
