"""Freed memory is kept where there is plenty, so that a step fetches no page twice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from extes_train.training import freed_memory

CHILD = """
import resource, torch
from extes_train.training.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 20)  # 4 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
kept = keep_freed_memory()
faults()
print(given_back, kept, faults())
"""


def child(**variables: str) -> tuple[int, bool, int]:
    """Page faults before, whether memory is kept, and faults then."""
    environment = {k: v for k, v in os.environ.items() if k not in ("SLURM_JOB_ID", "MALLOC_MMAP_THRESHOLD_")}
    words = subprocess.run(
        [sys.executable, "-c", CHILD], env={**environment, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return int(words[0]), words[1] == "True", int(words[2])


def test_a_launched_worker_keeps_what_it_frees() -> None:
    given_back, kept, afterwards = child(MALLOC_MMAP_THRESHOLD_="1048576")
    assert kept
    assert given_back > 15_000  # 20 x 1,024 pages
    assert afterwards < 0.1 * given_back


@pytest.mark.parametrize("variables", [{"MALLOC_MMAP_THRESHOLD_": "2000000"}, {"SLURM_JOB_ID": "7"}])
def test_what_was_decided_elsewhere_stays(variables: dict[str, str]) -> None:
    assert child(**{"MALLOC_MMAP_THRESHOLD_": "1048576", **variables})[1] is False


def test_short_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(freed_memory, "available_bytes", lambda: 2 * freed_memory.peak_memory_bytes())
    assert freed_memory.keep_freed_memory() is False


def test_available_memory_is_that_of_a_machine() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < freed_memory.available_bytes() < total
