"""The processes that measure together: a process group's part that measuring needs, and one process alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Ranks(Protocol):
    """What `engine.process_group.ProcessGroup` has of it; every method is called by all ranks."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def max(self, values: Sequence[float]) -> list[float]: ...
    def gather(self, value: Any) -> list[Any]: ...
    def broadcast(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Alone:
    """One process, no group."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1

    def max(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def gather(self, value: Any) -> list[Any]:
        """One value."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value


def rounds(items: Iterator[T] | Sequence[T], world_size: int) -> Iterator[list[T]]:
    """`items` in their order, `world_size` at a time: in each round rank r takes the r-th, if there is one.

    Ranks that meet after every round have met equally often, also where the last one leaves some without work.
    """
    found: list[T] = []
    for item in items:
        found.append(item)
        if len(found) == world_size:
            yield found
            found = []
    if found:
        yield found
