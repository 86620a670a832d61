"""debug=profile: a few steps under torch's profiler, written to RUN/profile/."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from extes_train.config import TrainConfig
from extes_train.training.run_dir import RunDir

if TYPE_CHECKING:
    from extes_train.engine.process_group import ProcessGroup

WARMUP_STEPS, PROFILED_STEPS = 2, 4


@contextlib.contextmanager
def profiled(config: TrainConfig, run: RunDir, group: ProcessGroup) -> Iterator[Callable[[], None]]:
    """Yields what is to be called once a step; does nothing unless debug=profile, on rank 0."""
    if config.debug.name != "profile" or group.rank != 0:
        yield lambda: None
        return
    from torch.profiler import profile, schedule

    out = run.path / "profile"
    out.mkdir(exist_ok=True)

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(out / "trace.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
        (out / "operators.txt").write_text(table, encoding="utf-8")

    plan = schedule(wait=1, warmup=WARMUP_STEPS, active=PROFILED_STEPS, repeat=1)
    with profile(schedule=plan, on_trace_ready=write, profile_memory=True) as profiler:
        yield profiler.step
