"""The verbs `import`, `export` and `merge`: dialogues and weights, in and out."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from extes_train.errors import EXIT_USER, error_text, terminal_width

EXPORT_FORMATS = ("messages", "sharegpt", "alpaca")
IMPORT_FORMATS = ("esconv", "extes", "messages", "sharegpt")


class Parser(argparse.ArgumentParser):
    """Errors as every verb says them."""

    def error(self, message: str) -> NoReturn:
        """The usage, the error, exit code 2."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USER, f"{error_text(f'{self.prog}: {message}', terminal_width(sys.stderr))}\n")


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    return Parser(prog=f"extes {verb}", description=description)


def import_(arguments: Sequence[str]) -> int:
    """`extes import FORMAT IN -o OUT`."""
    parser = _parser("import", "Read another dataset into dialogues.jsonl; nothing is dropped silently.")
    parser.add_argument("format", choices=IMPORT_FORMATS)
    parser.add_argument("input", help="file to read")
    parser.add_argument("-o", "--out", required=True, help="dialogues.jsonl to write")
    options = parser.parse_args(arguments)

    from extes_train.dialogue.importers import import_dialogues
    from extes_train.dialogue.jsonl import write_dialogues

    dialogues, summary = import_dialogues(options.format, options.input)
    write_dialogues(options.out, dialogues)
    print(f"{len(dialogues)} dialogues written to {options.out}")
    for name, count in summary.items():
        print(f"  {name}: {count}")
    return 0


def export(arguments: Sequence[str]) -> int:
    """`extes export dialogues FORMAT IN -o OUT` and `extes export weights RUN -o OUT`."""
    parser = _parser("export", "Write dialogues or weights for other programs.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    dialogues = kinds.add_parser("dialogues", help="dialogues.jsonl in another trainer's format")
    dialogues.add_argument("format", choices=EXPORT_FORMATS)
    dialogues.add_argument("input", help="dialogues.jsonl to read")
    weights = kinds.add_parser("weights", help="a run's model with its adapter merged, checked against the adapter")
    weights.add_argument("run", help="run directory, or a model or adapter folder")
    weights.add_argument("--base", help="base model of an adapter, where it is no longer where it was")
    for sub in (dialogues, weights):
        sub.add_argument("-o", "--out", required=True, help="file or folder to write")
    options = parser.parse_args(arguments)
    if options.kind == "weights":
        from launch.training import local_environment

        command = [sys.executable, "-m", "extes_train.export", options.run, options.out]
        command += ["--base", options.base] if options.base else []
        return subprocess.call(command, env=local_environment())

    from extes_train.dialogue.exporters import export_dialogues
    from extes_train.dialogue.jsonl import read_dialogues

    read = read_dialogues(options.input)
    export_dialogues(options.format, read, options.out)
    print(f"{len(read)} dialogues written to {options.out}")
    return 0


def merge(arguments: Sequence[str]) -> int:
    """`extes merge SHARD… -o OUT`."""
    parser = _parser("merge", "Join the shards of a generation; near-duplicates across shards are removed.")
    parser.add_argument("shards", nargs="+", help="folders of `extes generate generate.shard=i/n`")
    parser.add_argument("-o", "--out", required=True, help="folder to write")
    options = parser.parse_args(arguments)

    from data_gen.merge import merge_shards

    merge_shards(options.shards, options.out)
    return 0
