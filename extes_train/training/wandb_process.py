"""wandb in a process of its own: reads one JSON line a record from stdin, ends when stdin closes.

Whatever happens here (no network, a hanging upload, a wrong key), the run that feeds it goes on.

    python -m extes_train.training.wandb_process < records      (started by tracking.py)
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any


def main() -> None:
    """The first record is the arguments of wandb.init; the next ones are as `_take` reads them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when it ends: by closing stdin
    run = _start(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        _take(run, json.loads(line))
    run.finish()


def _take(run: Any, record: dict[str, Any]) -> None:
    """{"step", "values"} while a run goes; at an end {"summary": {name: number}}, {"tables": {name: [row, …]}} and
    {"images": {name: path}}."""
    import wandb

    if "values" in record:
        run.log(record["values"], step=record["step"])
    run.summary.update(record.get("summary", {}))
    media: dict[str, Any] = {}
    for name, rows in record.get("tables", {}).items():
        media[name] = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
    media |= {name: wandb.Image(path) for name, path in record.get("images", {}).items()}
    if media:
        run.log(media)


def _start(arguments: dict[str, Any]) -> Any:
    import wandb

    settings = wandb.Settings(silent=True, console="off", init_timeout=60)
    try:
        return wandb.init(**arguments, settings=settings)
    except Exception as error:
        if arguments.get("mode") == "offline":
            raise
        print(f"wandb: {error}; going on offline (`extes sync` uploads later)", file=sys.stderr)
        return wandb.init(**{**arguments, "mode": "offline"}, settings=settings)


if __name__ == "__main__":
    main()
