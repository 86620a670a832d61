"""`extes VERB …`: the one command. Importing this file, and `extes --help`, load nothing heavy."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from extes_train.errors import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USER,
    ExtesError,
    UserError,
    did_you_mean,
    error_text,
    path_error_line,
    terminal_width,
)


@dataclass(frozen=True)
class Verb:
    """`function` of `module` takes the arguments after the verb and returns an exit code."""

    module: str
    function: str
    summary: str
    usage: str = "[key=value …]"


VERBS: dict[str, Verb] = {
    "generate": Verb("launch.data", "generate", "grow seed dialogues into a dataset with a teacher"),
    "inpaint": Verb("launch.data", "inpaint", "write alternatives for supporter turns (DRI)"),
    "train": Verb("launch.training", "train", "tune one student"),
    "compare": Verb("launch.comparing", "compare", "tune and evaluate several arms on equal terms"),
    "evaluate": Verb("launch.training", "evaluate", "score a run on held-out dialogues"),
    "chat": Verb("launch.training", "chat", "talk to a tuned student"),
    "report": Verb("launch.comparing", "report", "write the report of a comparison again", "DIR"),
    "teacher": Verb("launch.data", "teacher", "serve the offline teacher on loopback"),
    "import": Verb("launch.exchange", "import_", "read other datasets", "FORMAT IN -o OUT"),
    "export": Verb("launch.exchange", "export", "write dialogues or weights for others", "dialogues|weights … -o OUT"),
    "merge": Verb("launch.exchange", "merge", "join the shards of a generation", "SHARD… -o OUT"),
    "review": Verb("launch.review", "review", "read dialogues in the terminal, one by one", "FILE"),
    "doctor": Verb("launch.preflight", "doctor", "check everything a launch needs, start nothing"),
    "status": Verb("launch.runs", "status", "list runs with state, step and loss", "[DIR]"),
    "logs": Verb("launch.runs", "logs", "show or follow a run's log", "RUN [-f]"),
    "cancel": Verb("launch.runs", "cancel", "stop a run", "RUN"),
    "sync": Verb("launch.runs", "sync", "upload offline wandb runs", "[DIR]"),
}


def usage() -> str:
    """The text of `extes --help`, within 80 columns."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: extes VERB [arguments]",
            "",
            "Train emotional-support chatbots: dialogues in, a comparison of students out.",
            "",
            *lines,
            "",
            "extes VERB --help   the verb's config groups and keys",
            "extes compare experiment=quickstart   the whole of it, on this machine",
        ]
    )


def run_verb(arguments: Sequence[str]) -> int:
    """Dispatch; errors are the caller's."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_OK if arguments else EXIT_USER
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"extes {version('extes')}")
        return EXIT_OK
    name, *rest = arguments
    if name not in VERBS:
        raise UserError(f"extes {name}: no such verb{did_you_mean(name, tuple(VERBS))}; `extes --help` lists them")
    verb = VERBS[name]
    return int(getattr(importlib.import_module(verb.module), verb.function)(rest))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console command. Returns the exit codes of DESIGN.md."""
    try:
        return run_verb(sys.argv[1:] if arguments is None else arguments)
    except ExtesError as error:
        if str(error):
            print(error_text(str(error), terminal_width(sys.stderr)), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("extes: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        if isinstance(error, OSError) and (line := path_error_line(error)):
            print(error_text(line, terminal_width(sys.stderr)), file=sys.stderr)
            return EXIT_USER
        import traceback

        traceback.print_exc()
        print("extes: internal error (above); please report it with the command", file=sys.stderr)
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
