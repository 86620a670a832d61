"""The journal: what a run has paid for, one JSON object a line, append-only, one writer.

Line 1 is a header with the digest of everything that decides what the run computes. Every record is handed to the
kernel by one write before it counts, so `kill -9` loses none; fsync, every `fsync_every` records and at the end, in a
thread of its own, is for power failures. A torn last line is cut off when the journal is opened again; damage before
the last line is an error, because a record that was paid for would be lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_gen.teacher.codec import decode, encode
from extes_train.dialogue.files import digest_of, sync_directory
from extes_train.errors import DataError, RunDirError

SCHEMA = 1
NAME = "journal.jsonl"
_HEAD = b'{"kind":"header"'
Span = tuple[int, int]  # offset and length of a record's line


class Spans:
    """A growing list of spans in 16 bytes each."""

    def __init__(self) -> None:
        self._numbers = array("q")

    def append(self, span: Span) -> None:
        self._numbers.extend(span)

    def __iter__(self) -> Iterator[Span]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers)


class Journal:
    """An open journal. `with Journal(path, what, settings) as journal:` takes the lock and checks the header."""

    def __init__(self, path: Path | str, what: str, settings: dict[str, Any], fsync_every: int = 32) -> None:
        self.path = Path(path)
        self.fsync_every = fsync_every
        self._header = {"kind": "header", "schema": SCHEMA, "what": what, "digest": digest_of(settings)}
        self._settings = settings
        self._unsynced = 0
        self._syncing: Future[None] | None = None

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RunDirError(f"{self.path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise RunDirError(f"{self.path}: another process is writing to this folder; choose another `out`") from None
        self._thread = ThreadPoolExecutor(1, "journal-fsync")
        try:
            self._end = self._mend()
            self._check_header()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            self._close()

    def append(self, record: dict[str, Any]) -> Span:
        """Write one record; returns where its line lies. Raises RunDirError where the disk refuses, nothing half."""
        line = encode(record) + b"\n"
        start = self._end
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, start)
            raise RunDirError(
                f"{self.path}: cannot be written: {error.strerror}; what is journalled is kept: "
                f"make room and start the same command again"
            ) from error
        self._end += len(line)
        self._unsynced += 1
        if self._unsynced >= self.fsync_every and (self._syncing is None or self._syncing.done()):
            self._unsynced = 0
            self._syncing = self._thread.submit(os.fdatasync, self._file)
        return start, len(line)

    def read(self, span: Span) -> dict[str, Any]:
        """The record at `span`."""
        return decode(os.pread(self._file, span[1], span[0]))

    def records(self) -> Iterator[tuple[Span, dict[str, Any]]]:
        """Every record after the header, in the order it was written."""
        offset = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                span = (offset, len(line))
                offset += len(line)
                if number > 1:
                    yield span, decode(line)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        if self._syncing is not None:
            self._syncing.result()
        os.fdatasync(self._file)
        self._unsynced = 0

    def _close(self) -> None:
        self._thread.shutdown(wait=True)
        os.close(self._file)  # frees the lock

    def _mend(self) -> int:
        """Check every line, cut a torn tail off, return the size."""
        end, bad, offset = 0, None, 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1 and line[: len(_HEAD)] != _HEAD[: len(line)] and line.strip(b"\0"):
                    raise RunDirError(f"{self.path}:1: not a journal of ours; choose another `out`")
                offset += len(line)
                if not _is_record(line):
                    bad = bad or number
                elif bad:
                    raise RunDirError(
                        f"{self.path}:{bad}: no journal record, but records follow: the file was damaged or edited; "
                        f"restore it, or choose another `out`"
                    )
                else:
                    end = offset
        if offset > end:
            os.ftruncate(self._file, end)
        return end

    def _check_header(self) -> None:
        if self._end == 0:
            self._write_header()
            return
        with open(self.path, "rb") as file:
            header = json.loads(file.readline())
        if header.get("kind") != "header" or header.get("what") != self._header["what"]:
            raise RunDirError(f"{self.path}:1: not a journal of `extes {self._header['what']}`; choose another `out`")
        if header.get("schema") != SCHEMA:
            raise RunDirError(f"{self.path}:1: schema {header.get('schema')}, this version writes {SCHEMA}")
        if header.get("digest") != self._header["digest"]:
            changed = differing(header.get("settings", {}), self._settings)
            raise RunDirError(
                f"{self.path}: was begun with other settings ({'; '.join(changed[:5]) or 'another version'}); "
                f"go on with those, or choose another `out`"
            )

    def _write_header(self) -> None:
        try:
            self.append({**self._header, "settings": self._settings, "started": time.time()})
            self.sync()
            sync_directory(self.path.parent)
        except OSError as error:
            raise RunDirError(f"{self.path}: cannot be written: {error.strerror}") from error


def read_journal(path: Path | str) -> Iterator[dict[str, Any]]:
    """Header and records of a journal that nobody need be writing; a torn last line is left out. Raises DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such journal")
    with open(path, "rb") as file:
        for line in file:
            if _is_record(line):
                yield json.loads(line)


def differing(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key: old, now new` for every dotted key in which two settings differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys([*old, *new]):
            found += differing(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return [] if old == new else [f"{prefix}: {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _is_record(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = decode(line)
    except ValueError:
        return False
    if not isinstance(record, dict):
        return False
    index = record.get("index")
    return record.get("kind") == "header" or ("kind" in record and isinstance(index, int) and 0 <= index < 1 << 40)
