"""The budget of an arm, once the first arm has run: `python -m launch.slurm.budget FILE` prints overrides."""

from __future__ import annotations

import sys

from extes_train.dialogue.files import read_json


def main(arguments: list[str]) -> int:
    """One override a line: as many targets or seconds as the first arm used, and no other end."""
    wanted = read_json(arguments[0])
    cost = read_json(wanted["cost"])
    key, value = (
        ("max_targets", cost["targets"]) if wanted["budget"] == "targets" else ("max_seconds", cost["train_seconds"])
    )
    print("optim.max_steps=null", "optim.epochs=1000000", f"optim.{key}={value}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
