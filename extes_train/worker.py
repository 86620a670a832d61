"""What every worker entry shares: how it fails, what it exits with, what it leaves for the launcher to read.

A worker is one process of a run. Its exit code comes from the error tree; torchrun replaces it by its own, so each
rank also writes a record to EXTES_EXIT_RECORDS, where a launcher finds the true code and the traceback.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from extes_train.environment import exit_record_directory, rank_variables
from extes_train.errors import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USER,
    ExtesError,
    Interrupted,
    Requeue,
    UserError,
    error_text,
    path_error_line,
    terminal_width,
)

# what gloo says on the ranks that are left when one has ended: a consequence, never the cause
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def run_worker(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run `main(argv)` and end the process with the code of DESIGN's list (0, 1, 2, 75, 130).

    Ends through `os._exit` after a failure: a rank that fails must not wait in the interpreter's shutdown for
    ranks or threads that wait for it.
    """
    faulthandler.enable()
    warnings.simplefilter("ignore", FutureWarning)  # libraries about libraries: nothing a user can act on
    code, shown = outcome_of(main, sys.argv[1:] if argv is None else argv)
    write_exit_record(code, shown)
    sys.stdout.flush()
    if shown and not _said_by_rank_0(code):
        print(error_text(shown, terminal_width(sys.stderr)), file=sys.stderr)
    sys.stderr.flush()
    if code == EXIT_OK:
        sys.exit(code)
    os._exit(code)


def outcome_of(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> tuple[int, str]:
    """Call `main(argv)`; returns the exit code and what the user is to read ('' after a success)."""
    try:
        main(argv)
    except SystemExit as error:  # argparse
        return error.code if isinstance(error.code, int) else EXIT_OK if error.code is None else EXIT_INTERNAL, ""
    except (UserError, Requeue, Interrupted) as error:
        return error.exit_code, _line(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED, "interrupted"
    except ExtesError as error:
        return error.exit_code, f"{traceback.format_exc()}{_line(error)}" if error.__cause__ else _line(error)
    except BaseException as error:
        if isinstance(error, OSError) and (line := path_error_line(error)):
            return EXIT_USER, line
        if isinstance(error, RuntimeError) and any(words in str(error) for words in PEER_GONE):
            return EXIT_INTERNAL, f"{_where()} another rank has ended; its own words, or its node's log, say why"
        return EXIT_INTERNAL, f"{_where()}\n{traceback.format_exc()}"
    return EXIT_OK, ""


@contextlib.contextmanager
def rank_environment() -> Iterator[None]:
    """torchrun's variables for a process that was started by hand, as torch and DeepSpeed want them; put back after.

    Does nothing where a launcher has set them.
    """
    if rank_variables().master_port:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)


def write_exit_record(code: int, shown: str) -> None:
    """Leave RANK.json in EXTES_EXIT_RECORDS: rank, code, the text shown, host, time. Never raises."""
    directory = exit_record_directory()
    if directory is None:
        return
    from extes_train.dialogue.files import write_json

    rank = rank_variables().rank
    record = {
        "rank": rank, "code": code, "traceback": shown, "host": socket.gethostname(), "pid": os.getpid(),
        "time": time.time(),
    }  # fmt: skip
    try:
        write_json(directory / f"rank-{rank}.json", record)
    except OSError as error:
        print(f"exit record not written: {error}", file=sys.stderr)


def _said_by_rank_0(code: int) -> bool:
    """True where every rank ends alike and a launcher keeps the records: one line is enough."""
    return code not in (EXIT_OK, EXIT_INTERNAL) and rank_variables().rank != 0 and exit_record_directory() is not None


def _line(error: ExtesError) -> str:
    """One clear line; further ranks say who they are."""
    return f"{'' if rank_variables().rank == 0 else _where() + ' '}{error}"


def _where() -> str:
    return f"[rank {rank_variables().rank} on {socket.gethostname()}]"
