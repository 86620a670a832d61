"""Chat messages in, a reply out: the composing teacher's one entry."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from data_gen.teacher.codec import encode
from data_gen.teacher.offline.alternatives import alternatives, fill_dialogue
from data_gen.teacher.offline.compose import compose
from data_gen.teacher.offline.prompt import read_ask

MODEL = "offline-teacher"
ABOUT = (
    "I am no language model. I am the offline teacher of ExTES: a program that composes dialogues from its own banks "
    "of situations and phrases, the same for the same prompt and seed. What I write shows that the machinery works; it "
    "is synthetic and not clinical advice."
)


def reply(messages: list[dict[str, Any]], seed: int = 0) -> str:
    """What the teacher answers; a function of the messages and the seed alone."""
    ask = read_ask(messages)
    if ask.kind == "chat":
        return ABOUT
    digest = hashlib.blake2b(f"{seed}\n{ask.text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big"))
    if ask.kind == "expand":
        value: Any = compose(ask, rng)
    elif ask.kind == "turn":
        value = {"alternatives": alternatives(ask, rng)}
    else:
        value = {"turns": fill_dialogue(ask, rng)}
    return encode(value).decode("utf-8")
