"""Dialogues to token ids, the same way for training, evaluation and chat.

The prefix of a turn is tokenised alone; a response is what its text adds to those ids. Where the boundary would merge,
the response is encoded as a continuation that leaves the prefix as it is (counted in `Encoder.merged`). So
`encode_dialogue(...).ids[:attach]` equals `encode_prefix(turns before)` for every supporter turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from extes_train.dialogue.schema import Turn
from extes_train.tokens.encoder import Encoder, Ints
from extes_train.tokens.rendering import render_sample
from extes_train.tokens.template import (
    Atom,
    Boundary,
    Break,
    Spoken,
    SystemText,
    Template,
    TurnSkeleton,
    open_dialogue,
)

_NONE = np.zeros(0, dtype=np.int32)


@dataclass(slots=True)
class EncodedTurn:
    """Where a turn lies on the trunk: [start, stop) with its lead; its content and end-of-turn are [attach, stop)."""

    speaker: str
    start: int
    attach: int
    stop: int
    num_end: int = 0
    num_bytes: int = 0
    alternatives: list[tuple[Ints, int, int]] = field(default_factory=list)  # ids, num_end, num_bytes


@dataclass(slots=True)
class EncodedDialogue:
    """Turns from `first_turn` on as one trunk; it stops after the turn that passed `max_tokens`, if that was given."""

    ids: Ints
    turns: list[EncodedTurn]
    first_turn: int = 0


class _Walk:
    """Runs of text between special tokens, encoded piece by piece; each piece leaves the ones before as they are."""

    def __init__(self, encoder: Encoder, system: str) -> None:
        self.encoder, self.system = encoder, system
        self.parts: list[Ints] = []
        self.length = 0
        self.text, self.first = "", True  # the open run, and whether it is a string of its own
        self.done, self.done_text = _NONE, ""  # what of the run is in `parts`

    def flush(self, ids: Iterable[int] = (), first: bool = False) -> None:
        """Close the run, then add special tokens."""
        self.settle()
        self.text, self.first, self.done, self.done_text = "", first, _NONE, ""
        self.add(np.array(list(ids), dtype=np.int32))

    def add(self, ids: Ints) -> None:
        if len(ids):
            self.parts.append(ids)
            self.length += len(ids)

    def settle(self) -> None:
        """Encode the run as it stands."""
        if self.text == self.done_text:
            return
        new = self.encoder.after(self.done, self.done_text, self.text[len(self.done_text) :], self.first)
        self.add(new)
        self.done = np.concatenate([self.done, new]) if len(self.done) else new
        self.done_text = self.text

    def here(self) -> int:
        """Trunk length if the run ended here; the run stays open."""
        return self.length if self.text == self.done_text else self.length - len(self.done) + len(self._soft())

    def _soft(self) -> Ints:
        return self.encoder.ids(self.text, self.first)

    def lead(self, atoms: tuple[Atom, ...]) -> int | None:
        """Add what stands before a turn's content; returns where the turn before ends, if it says so."""
        boundary = None
        for atom in atoms:
            if isinstance(atom, int):
                self.flush((atom,))
            elif isinstance(atom, str):
                self.text += atom
            elif isinstance(atom, Break):
                self.flush(first=True)
            elif isinstance(atom, SystemText):
                self.text += self.system
            elif isinstance(atom, Boundary):
                boundary = self.here()
        return boundary

    def response(self, skeleton: TurnSkeleton, text: str) -> tuple[Ints, int]:
        """(ids of a response at this place, how many of them are its end); the walk stays where it is."""
        addition = skeleton.before + text + skeleton.after
        body = self.encoder.after(self.done, self.text, addition, self.first)
        after = 0
        if skeleton.after:
            content = self.encoder.after(self.done, self.text, skeleton.before + text, self.first)
            after = max(0, len(body) - len(content))
        ids = np.concatenate([body, np.array(skeleton.end, dtype=np.int32)])
        return ids, after + len(skeleton.end)


def encode_turns(
    template: Template, encoder: Encoder, turns: Sequence[Spoken], max_tokens: int | None = None, first_turn: int = 0
) -> EncodedDialogue:
    """The trunk of `turns` (already opened) with each turn's place, and the alternatives of supporter turns.

    Stops after the turn that takes the trunk past `max_tokens`. Content is stripped of surrounding white space.
    """
    walk = _Walk(encoder, (template.system or "").strip())
    encoded: list[EncodedTurn] = []
    after_last = () if not turns or turns[-1].speaker != "seeker" else ("supporter",)  # its lead ends the last turn
    skeletons = template.skeleton([*(turn.speaker for turn in turns), *after_last])
    for turn, skeleton in zip(turns, skeletons):
        start = _begin_turn(walk, encoded, skeleton.lead)
        text = turn.text.strip()
        if turn.speaker == "seeker":
            attach = walk.here()
            walk.text += text
            num_end = -walk.here() if template.plain else 0  # completed where the turn ends
            encoded.append(EncodedTurn("seeker", start, attach, 0, num_end, len(text.encode())))
        else:
            encoded.append(_supporter_turn(walk, skeleton, turn, text, start))
        if max_tokens is not None and walk.length > max_tokens:
            after_last = ()
            break
    if after_last:
        lead = skeletons[-1].lead
        _begin_turn(walk, encoded, lead[: lead.index(Boundary()) + 1] if Boundary() in lead else ())
    elif encoded and encoded[-1].speaker == "seeker":
        encoded[-1].stop, encoded[-1].num_end = walk.here(), 0
    walk.settle()
    ids = np.concatenate(walk.parts) if walk.parts else _NONE
    return EncodedDialogue(ids, encoded, first_turn)


def _begin_turn(walk: _Walk, encoded: list[EncodedTurn], lead: tuple[Atom, ...]) -> int:
    """Add the lead and complete the turn before; returns where the new turn starts."""
    boundary = walk.lead(lead)
    if encoded and encoded[-1].speaker == "seeker":
        last = encoded[-1]
        last.stop = walk.here() if boundary is None else boundary
        last.num_end = last.stop + last.num_end if last.num_end else 0
    return encoded[-1].stop if encoded else 0


def _supporter_turn(walk: _Walk, skeleton: TurnSkeleton, turn: Spoken, text: str, start: int) -> EncodedTurn:
    walk.settle()
    place = EncodedTurn("supporter", start, walk.length, 0, num_bytes=len(text.encode()))
    for alternative in getattr(turn, "alternatives", ()):
        other = alternative.text.strip()
        place.alternatives.append((*walk.response(skeleton, other), len(other.encode())))
    ids, place.num_end = walk.response(skeleton, text)
    walk.add(ids)
    walk.text, walk.first, walk.done, walk.done_text = "", False, _NONE, ""
    place.stop = walk.length
    return place


def encode_dialogue(template: Template, encoder: Encoder, turns: Sequence[Spoken]) -> EncodedDialogue:
    """The whole dialogue: encode_turns of the opened dialogue."""
    return encode_turns(template, encoder, open_dialogue(template, turns)[0])


def encode_prefix(template: Template, encoder: Encoder, turns: Sequence[Spoken], max_tokens: int | None = None) -> Ints:
    """Ids that a supporter's response to `turns` continues: the turns and the assistant header.

    With `max_tokens`, the oldest turns are left out whole until it fits (at least the last turn stays).
    """
    ids = prefix_of(template, encoder, open_dialogue(template, turns)[0])
    start = 0
    while max_tokens is not None and len(ids) > max_tokens and start + 1 < len(turns):
        start += 1
        if template.seeker_first and turns[start].speaker != "seeker":
            continue
        ids = prefix_of(template, encoder, turns[start:])
    return ids


def prefix_of(template: Template, encoder: Encoder, turns: Sequence[Spoken]) -> Ints:
    """Ids of `turns` as they are, followed by the assistant header."""
    if template.rewrites:
        return render_sample(template, encoder, turns, "")[0]
    answered = [*turns, Turn("supporter", "")]
    walk = _Walk(encoder, (template.system or "").strip())
    for turn, skeleton in zip(answered, template.skeleton([turn.speaker for turn in answered])):
        walk.lead(skeleton.lead)
        if turn.speaker == "seeker":
            walk.text += turn.text.strip()
            continue
        walk.settle()
        if turn is answered[-1]:
            break
        walk.add(walk.response(skeleton, turn.text.strip())[0])
        walk.text, walk.first, walk.done, walk.done_text = "", False, _NONE, ""
    return np.concatenate(walk.parts) if walk.parts else _NONE
