"""Windows: the part of a dialogue that one sample holds, cut once, before the layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from extes_train.errors import DataError
from extes_train.tokens.encoding import EncodedDialogue, EncodedTurn

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Response:
    """One response that carries loss: the original (`alternative` -1) or an alternative of a turn.

    `ids` is content and end-of-turn; `attach` the trunk index of the original's first content token, so that
    trunk[:attach] is the prefix of every response of the turn. The last `num_end` ids are the end-of-turn (0 where the
    response was truncated); `num_bytes` counts the content's UTF-8 bytes.
    """

    turn: int  # index of the turn in its dialogue
    alternative: int
    attach: int
    ids: Ints
    num_end: int
    num_bytes: int


@dataclass(slots=True)
class Window:
    """Turns [first_turn, stop_turn) of a dialogue as a trunk, with the responses that are targets in this window."""

    dialogue: int  # index of the dialogue in its dataset
    first_turn: int
    stop_turn: int
    trunk: Ints
    responses: list[Response]  # by turn, the original first


@dataclass(slots=True)
class WindowCounts:
    """What cutting could not keep: (turn, alternative or -1) of every response concerned, turns of seekers."""

    skipped: list[tuple[int, int]] = field(default_factory=list)
    truncated: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)  # nothing before its first token
    seekers_left_out: list[int] = field(default_factory=list)  # a seeker turn longer than a window
    short_context: list[int] = field(default_factory=list)  # first targets after less left context than asked for


@dataclass(frozen=True, slots=True)
class WindowRules:
    """How windows are cut. `context_length` bounds the longest path from the root to a leaf."""

    context_length: int
    min_left_context: int
    too_long: str = "skip"  # truncate_response | skip | error
    targets: str = "supporter"  # supporter | all
    seeker_first: bool = False  # a window may only start at a seeker turn


def cut_windows(
    encode_from: Callable[[int], EncodedDialogue],
    speakers: Sequence[str],
    rules: WindowRules,
    dialogue: int = 0,
    context_only: Collection[int] = (),
) -> tuple[list[Window], WindowCounts]:
    """Windows over a dialogue: every turn that is a target is one in exactly one of them.

    `encode_from(turn)` encodes the turns from `turn` on as a dialogue of its own, at least as far as a window goes.
    Windows start at turn boundaries, the first at 0; each next one repeats whole turns of at least
    `min_left_context` tokens, fewer where the next response fits no other way. `context_only`: turns without loss.

    Raises DataError for a response that fits no window under too_long=error.
    """
    cutter = _Cutter(encode_from, speakers, rules, dialogue, context_only)
    cutter.run()
    return cutter.windows, cutter.counts


class _Cutter:
    def __init__(
        self,
        encode_from: Callable[[int], EncodedDialogue],
        speakers: Sequence[str],
        rules: WindowRules,
        dialogue: int,
        context_only: Collection[int],
    ) -> None:
        self.encode_from, self.speakers, self.rules = encode_from, speakers, rules
        self.dialogue, self.context_only = dialogue, context_only
        self.windows: list[Window] = []
        self.counts = WindowCounts()

    def run(self) -> None:
        start = done = 0  # the window's first turn; turns before `done` have been targets
        encoded = self.encode_from(0)
        while done < len(self.speakers):
            stop = done
            while stop < len(self.speakers) and self.fits(encoded, start, stop):
                stop += 1
            if stop == done:
                closer = self.next_start(start, done)
                if closer is not None:
                    start, encoded = closer, self.encode_from(closer)
                    continue
                self.too_long(encoded, start, done)
                stop = done + 1
            else:
                self.emit(encoded, start, done, stop)
            done = stop
            if done < len(self.speakers):
                start = self.start_before(encoded, start, done)
                encoded = self.encode_from(start)

    def next_start(self, start: int, done: int) -> int | None:
        """The next turn after `start`, up to `done`, at which a window may begin."""
        return next((turn for turn in range(start + 1, done + 1) if self.may_start(turn)), None)

    def may_start(self, turn: int) -> bool:
        return not self.rules.seeker_first or self.speakers[turn] == "seeker"

    def start_before(self, encoded: EncodedDialogue, start: int, done: int) -> int:
        """The last turn from which whole turns of `min_left_context` tokens stand before turn `done`."""
        turns = encoded.turns
        for turn in range(min(done, start + len(turns)), start, -1):
            first = turns[turn - start].start if turn - start < len(turns) else turns[-1].stop
            last = turns[min(done - start, len(turns)) - 1].stop
            if last - first >= self.rules.min_left_context and self.may_start(turn):
                return turn
        return start

    def fits(self, encoded: EncodedDialogue, start: int, turn: int) -> bool:
        """True when every response of `turn` ends within the window; those that fit no window do not count."""
        if turn - start >= len(encoded.turns):
            return False
        place, limit = encoded.turns[turn - start], self.rules.context_length
        if place.stop > limit:
            return False
        lead = place.attach - place.start
        return all(place.attach + len(ids) <= limit or lead + len(ids) > limit for ids, _, _ in place.alternatives)

    def is_target(self, turn: int) -> bool:
        spoken = self.speakers[turn] == "supporter" or self.rules.targets == "all"
        return spoken and turn not in self.context_only

    def emit(self, encoded: EncodedDialogue, start: int, done: int, stop: int) -> None:
        """The window [start, stop) with the targets of [done, stop); its trunk ends with the last of them."""
        responses = []
        for turn in range(done, stop):
            if self.is_target(turn):
                responses += self.responses(encoded, turn, encoded.turns[turn - start])
        if not responses:
            return
        before = encoded.turns[responses[0].turn - start].start - encoded.turns[0].start
        if start and before < self.rules.min_left_context:
            self.counts.short_context.append(responses[0].turn)
        limit = self.rules.context_length
        length = max(r.attach + (len(r.ids) if r.alternative < 0 else 0) for r in responses)
        trunk = encoded.ids[: min(length, limit)]
        last = max(response.turn for response in responses)
        self.windows.append(Window(self.dialogue, start, last + 1, trunk, responses))

    def responses(self, encoded: EncodedDialogue, turn: int, place: EncodedTurn) -> list[Response]:
        original = (encoded.ids[place.attach : place.stop], place.num_end, place.num_bytes)
        kept = []
        for alternative, (ids, num_end, num_bytes) in enumerate([original, *place.alternatives], start=-1):
            room = self.rules.context_length - place.attach
            if place.attach == 0:
                self.counts.refused.append((turn, alternative))
                continue
            if len(ids) > room:
                if self.drop(turn, alternative, len(ids), room):
                    continue
                num_bytes = round(num_bytes * room / max(1, len(ids) - num_end))  # the share that stays
                ids, num_end = ids[:room], 0
            if len(ids):
                kept.append(Response(turn, alternative, place.attach, ids, num_end, num_bytes))
        return kept

    def drop(self, turn: int, alternative: int, length: int, room: int) -> bool:
        """Count a response that no window holds; True when it is left out."""
        if self.rules.too_long == "error":
            what = "response" if alternative < 0 else f"alternative {alternative}"
            raise DataError(
                f"turns[{turn}]: the {what} has {length} tokens where {max(room, 0)} fit a context of "
                f"{self.rules.context_length}; tokens.too_long=skip or truncate_response, or a longer context"
            )
        left_out = self.rules.too_long == "skip" or room <= 0
        (self.counts.skipped if left_out else self.counts.truncated).append((turn, alternative))
        return left_out

    def too_long(self, encoded: EncodedDialogue, start: int, turn: int) -> None:
        """Turn `turn` in the smallest window that it can have, which does not hold it."""
        place = encoded.turns[turn - start] if turn - start < len(encoded.turns) else None
        if not self.is_target(turn):
            if self.speakers[turn] == "seeker":
                self.counts.seekers_left_out.append(turn)
        elif place is None:
            self.drop(turn, -1, 0, 0)
        elif self.rules.too_long == "skip" and place.stop > self.rules.context_length:
            self.counts.skipped += [(turn, alternative) for alternative in range(-1, len(place.alternatives))]
        else:
            self.emit(encoded, start, turn, turn + 1)
