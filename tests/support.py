"""What several tests need: a function on several gloo processes, a tiny model."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def gloo_run(function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 240.0) -> list[Any]:
    """Run the module-level `function(*args)` on `world_size` processes with torchrun's variables set.

    The function starts its own process group. Returns what each rank returned (picklable); a rank's exception fails
    the test with that rank's traceback.
    """
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    queue = context.Queue()
    port = free_port()
    ranks = [
        context.Process(target=_rank, args=(function, r, world_size, port, queue, args)) for r in range(world_size)
    ]
    for process in ranks:
        process.start()
    results: dict[int, Any] = {}
    try:
        for _ in ranks:
            rank, value, error = queue.get(timeout=timeout_s)
            assert error is None, f"rank {rank}:\n{error}"
            results[rank] = value
    finally:
        for process in ranks:
            process.join(timeout=20 if len(results) == world_size else 0.1)
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(world_size)]


def _rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, queue: Any, args: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    try:
        import torch

        torch.set_num_threads(1)
        queue.put((rank, function(*args), None))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))
