"""torchrun without its closing traceback: `python -m launch.agent TORCHRUN-ARGUMENTS`.

The failing rank's own error is what the user should see last. How each worker ended goes to
EXTES_EXIT_RECORDS/agent.json, so that the launcher can tell a killed worker from one that failed by itself.
"""

from __future__ import annotations

import json
import logging
import sys

from launch.environment import exit_records


def main(arguments: list[str]) -> int:
    """Run torchrun; returns 0 or the first failing worker's exit code (a signal counts as 128 + its number)."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        failures = [{"rank": rank, "exitcode": failure.exitcode} for rank, failure in sorted(error.failures.items())]
        if records := exit_records():
            records.mkdir(parents=True, exist_ok=True)
            (records / "agent.json").write_text(json.dumps(failures))
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except Exception as error:
        if type(error).__name__ == "SignalException":
            return 128 + int(getattr(error, "sigval", 15))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
