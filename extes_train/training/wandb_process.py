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
    """The first record is the arguments of wandb.init; each next one is {"step": …, "values": {…}}."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when it ends: by closing stdin
    run = _start(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        record = json.loads(line)
        run.log(record["values"], step=record["step"])
    run.finish()


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
