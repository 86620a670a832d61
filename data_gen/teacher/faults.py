"""A bad day, planned: which request meets which fault.

Faults of what is said (garbage, refusal, length, content filter) depend on the seed and the request's body alone, so
that a request sent again, to this or another server, says the same. Faults of the way (429, 500, hang, reset,
truncated) depend also on how often that body was sent before, so that trying again helps. Neither depends on the
order or the time in which requests arrive.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import fields

from data_gen.config import FaultsConfig

TRANSPORT_FAULTS = ("429", "500", "hang", "reset", "truncated")
CONTENT_FAULTS = ("garbage", "refusal", "length", "content_filter")
GARBAGE = (
    "Sure! Here is a dialogue about what you asked: first she says that, and then the other one says something kind.",
    '{"situation": "unfinished, because',
    "<html><body><h1>It works!</h1></body></html>",
    "turns: seeker - hello; supporter - hello; and so on until the end",
)
REFUSAL = "I'm sorry, but I can't help with that request."


class FaultPlan:
    """`transport(body)` and `content(body)` name a fault or None. `counts` says how often each was dealt."""

    def __init__(self, config: FaultsConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        self._sent: Counter[bytes] = Counter()  # bodies that met a transport fault, until they get through
        rates = {field.name: getattr(config, field.name) for field in fields(config)}
        self._transport = [(name, rates[f"rate_{name}"]) for name in TRANSPORT_FAULTS if rates[f"rate_{name}"]]
        self._content = [(name, rates[f"rate_{name}"]) for name in CONTENT_FAULTS if rates[f"rate_{name}"]]

    def transport(self, body: bytes) -> str | None:
        """What goes wrong on the way this time."""
        if not self._transport:
            return None
        digest = hashlib.blake2b(body, digest_size=16).digest()
        name = self._draw(self._transport, digest + self._sent[digest].to_bytes(4, "big"))
        if name is None:
            self._sent.pop(digest, None)
        else:
            self._sent[digest] += 1
        return name

    def content(self, body: bytes) -> str | None:
        """What is wrong with the reply."""
        return self._draw(self._content, b"content" + body) if self._content else None

    def garbage(self, body: bytes) -> str:
        """A reply that is no JSON."""
        return GARBAGE[int(self._uniform(b"garbage" + body) * len(GARBAGE))]

    def _draw(self, faults: list[tuple[str, float]], key: bytes) -> str | None:
        left = self._uniform(key)
        for name, rate in faults:
            left -= rate
            if left < 0:
                self.counts[name] += 1
                return name
        return None

    def _uniform(self, key: bytes) -> float:
        digest = hashlib.blake2b(key, digest_size=8, salt=self.config.seed.to_bytes(8, "big", signed=True)).digest()
        return int.from_bytes(digest, "big") / 2**64
