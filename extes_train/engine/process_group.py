"""The processes of a run: who they are, and the few things they say to each other outside DeepSpeed."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from extes_train.engine.config import DistributedConfig
from extes_train.environment import rank_variables, threads
from extes_train.errors import TrainingError, UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among its peers. `control` is a gloo group for numbers that live on the host."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    backend: str
    control: Any = None

    @property
    def is_first(self) -> bool:
        """True on the rank that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64 on the host."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Element-wise maximum over the ranks, in float64 on the host."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum([0.0])

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order, on every rank."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable `value`, on every rank."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def together(self, function: Callable[[], Result]) -> Result:
        """What `function()`, which talks to no other rank, returns; where it fails on some ranks, all of them fail.

        With the first rank's error, so that nobody waits for a rank that has given up.
        """
        values: list[Result] = []
        error = None
        try:
            values.append(function())
        except Exception as caught:
            error = caught
        said = self.gather(None if error is None else (isinstance(error, UserError), type(error), str(error)))
        first = next((rank for rank, what in enumerate(said) if what is not None), None)
        if first is None:
            return values[0]
        if error is not None and first == self.rank:
            raise error
        by_user, kind, message = said[first]
        raise (kind(message) if by_user else TrainingError(f"rank {first}: {kind.__name__}: {message}")) from error

    def _reduce(self, values: Sequence[float], operation: Any) -> list[float]:
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, op=operation, group=self.control)
        return [float(value) for value in tensor]


def start_process_group(config: DistributedConfig) -> ProcessGroup:
    """Join the peers that torchrun's variables describe; a process started by hand is a group of one.

    DeepSpeed takes over the group that exists, so it builds no extension of its own for it.
    """
    variables = rank_variables()
    device, backend = _device_and_backend(config.backend, variables.local_rank)
    _set_threads(config, device, variables.local_world_size)
    timeout = datetime.timedelta(seconds=config.timeout_s)
    options: dict[str, Any] = {"device_id": device} if backend == "nccl" else {}
    if variables.world_size == 1 and not variables.master_port:
        options["store"] = dist.HashStore()  # nobody to meet, and groups made later need it too
    dist.init_process_group(backend, rank=variables.rank, world_size=variables.world_size, timeout=timeout, **options)
    control = None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
    os.environ.setdefault("LOCAL_RANK", str(variables.local_rank))  # DeepSpeed insists, also for a process by hand
    _adopt_into_deepspeed(timeout)
    return ProcessGroup(variables.rank, variables.world_size, variables.local_rank, device, backend, control)


def stop_process_group(group: ProcessGroup) -> None:
    """Leave. Safe when it was left already."""
    del group
    if dist.is_initialized():
        dist.destroy_process_group()
        _forget_in_deepspeed()


@contextlib.contextmanager
def process_group(config: DistributedConfig) -> Iterator[ProcessGroup]:
    """`start_process_group`, left at the end, also after an error."""
    group = start_process_group(config)
    try:
        yield group
    finally:
        stop_process_group(group)


def limit_waits(config: DistributedConfig) -> None:
    """Give every group of this process `distributed.timeout_s`.

    Those that DeepSpeed makes for itself wait for torch's half an hour else, whatever the run asks for.
    """
    from torch.distributed import distributed_c10d

    timeout = datetime.timedelta(seconds=config.timeout_s)
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timeout, group)


def _device_and_backend(wanted: str, local_rank: int) -> tuple[torch.device, str]:
    cuda = torch.cuda.is_available()
    backend = ("nccl" if cuda else "gloo") if wanted == "auto" else wanted
    if backend == "nccl" and not cuda:
        raise TrainingError("distributed.backend=nccl: no CUDA device is visible here; use auto or gloo")
    if not cuda:
        return torch.device("cpu"), backend
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} visible; start fewer processes per node"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device, backend


def _set_threads(config: DistributedConfig, device: torch.device, local_world_size: int) -> None:
    """Cores shared out among the processes of the node, unless the user or the launcher said otherwise."""
    wanted = config.threads_per_process or threads()
    if wanted is None:
        wanted = max(1, (len(os.sched_getaffinity(0))) // local_world_size) if device.type == "cpu" else None
    if wanted is not None:
        torch.set_num_threads(wanted)


def _adopt_into_deepspeed(timeout: datetime.timedelta) -> None:
    """Give DeepSpeed the group we made. Its CPU extension (66 s to compile, FACTS.md) is declared unavailable."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would look for one and warn on stdout
    import deepspeed
    from deepspeed import comm

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _quiet_deepspeed()
    comm.init_distributed(
        dist_backend=dist.get_backend(),
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timeout,
        dist_init_required=False,
    )


def _forget_in_deepspeed() -> None:
    """DeepSpeed keeps its handle on a group that is gone; a process that starts another needs it cleared."""
    from deepspeed import comm
    from deepspeed.utils import groups

    comm.comm.cdb = None
    for name in vars(groups):
        if name.startswith("_") and name.isupper() and "GROUP" in name:
            value = getattr(groups, name)
            setattr(groups, name, {} if isinstance(value, dict) else None)


def _quiet_deepspeed() -> None:
    """Its information lines, and torch's remarks on the collectives it calls, repeat for every rank."""
    import logging
    import warnings

    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed\..*")
