"""Every error a user can meet.

ExtesError                    exit 1
├── UserError                 exit 2    what the user wrote or pointed at
│   ├── ConfigError                     a key, a value, a combination (names the dotted key)
│   ├── DataError                       a dialogue, a file (names file:line and the field)
│   ├── RunDirError                     a run directory that cannot be used
│   ├── ModelError                      a model or tokenizer folder, an unsupported architecture
│   ├── LayoutError                     a template or model that cannot take token trees
│   ├── TeacherError                    an endpoint that refuses: address, key, model
│   └── LaunchError                     a request the machine or the cluster cannot serve
├── BudgetReached             exit 0    a cap of generation was reached: a clean stop
├── TrainingError             exit 1    NaN loss, zero steps, a lost rank
├── Requeue                   exit 75   checkpointed, wants to be started again
└── Interrupted               exit 130  stopped by the user
"""

from __future__ import annotations

import errno
from typing import TextIO

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USER = 2
EXIT_REQUEUE = 75
EXIT_INTERRUPTED = 130


class ExtesError(Exception):
    """Base of the tree. `exit_code` is what the process ends with when nobody handles the error."""

    exit_code = EXIT_INTERNAL


class UserError(ExtesError):
    """Something the user can mend. The message names the place, the value, what is allowed and what to do."""

    exit_code = EXIT_USER


class ConfigError(UserError):
    """A configuration key. Starts with the dotted key."""


class DataError(UserError):
    """A dialogue or file that cannot be read as it should. Starts with `file:line` where there is one."""


class RunDirError(UserError):
    """A run directory that belongs to another configuration or cannot be written."""


class ModelError(UserError):
    """A model or tokenizer folder that is missing, broken or of an unsupported architecture."""


class LayoutError(UserError):
    """A chat template or an architecture that cannot take token trees; `tokens.layout=flat` is the way out."""


class TeacherError(UserError):
    """An endpoint that will go on refusing: unreachable, a wrong key, an unknown model."""


class LaunchError(UserError):
    """A launch that this machine or cluster cannot serve."""


class BudgetReached(ExtesError):
    """A hard cap on requests, tokens or money."""

    exit_code = EXIT_OK


class TrainingError(ExtesError):
    """Training that cannot go on."""


class Requeue(ExtesError):
    """A checkpoint is written and the run wants to be started again."""

    exit_code = EXIT_REQUEUE


class Interrupted(ExtesError):
    """The user stopped the run."""

    exit_code = EXIT_INTERRUPTED


# what a path or a disk can refuse; anything else that the system raises is a fault of ours
PATH_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip


def path_error_line(error: OSError) -> str:
    """One line for a path that the system refuses or a disk that is full; '' for other errors of the system."""
    if error.errno not in PATH_ERRORS or error.filename is None:
        return ""
    path = error.filename2 or error.filename
    advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name a path that can be used"
    return f"{path}: {(error.strerror or '').lower()}; {advice}"


def error_text(message: str, width: int | None = None) -> str:
    """What a person reads: `extes: ` and the message, its lines broken at `width` columns; a traceback as it is."""
    import textwrap

    if "Traceback (most recent call last)" in message:
        return message
    lines = f"extes: {message.removeprefix('extes ')}".splitlines()
    if width is None:
        return "\n".join(lines)
    shown = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        # paths and overrides stay whole, to be copied
        shown += textwrap.wrap(
            line, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(shown)


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that `stream` goes to, None where it goes elsewhere."""
    import shutil

    return shutil.get_terminal_size().columns if stream.isatty() else None


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`' (did you mean "lora"?)'`, or an empty string where nothing known is close to `word`."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""
