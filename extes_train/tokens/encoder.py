"""Texts to token ids, each text once, many at a time; responses as what they add to the ids of their prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from extes_train.errors import ModelError
from extes_train.tokens.template import special_pattern

Ints = npt.NDArray[np.int32]
_NONE = np.zeros(0, dtype=np.int32)
_ANCHORS = ("\n", ".", "a", "1")  # texts that a continuation is encoded after and cut from


class Encoder:
    """Texts to ids with a memory, so that equal texts are tokenised once and many at a time.

    Special-token strings in a text are encoded as the characters they are.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(f"{tokenizer.name_or_path}: needs a fast tokenizer (a tokenizer.json)")
        self._backend = backend
        self._backend.no_truncation()
        self._backend.no_padding()
        self._specials = special_pattern(tokenizer)
        self._anchor = self._find_anchor(tokenizer)
        self._known: dict[tuple[str, bool], Ints] = {}
        self._wanted: dict[tuple[str, bool], None] | None = None
        self.merged = 0

    def _find_anchor(self, tokenizer: Any) -> str | None:
        """A special token to put before texts that follow one, where a string's first text is encoded otherwise."""
        tokens = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special and not t.rstrip]
        for token in tokens:
            alone, after = self._batch(["Word one"])[0], self._batch([token + "Word one"])[0]
            if len(after) == len(alone) + 1 and (after[1:] == alone).all():
                return None
            return str(token)
        return None

    def _batch(self, texts: Sequence[str]) -> list[Ints]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _as_text(self, text: str) -> Ints:
        before = self._backend.encode_special_tokens
        self._backend.encode_special_tokens = True
        try:
            return self._batch([text])[0]
        finally:
            self._backend.encode_special_tokens = before

    def collect(self) -> None:
        """From now on `ids` only notes what it is asked for, until `learn`."""
        self._wanted = {}

    def learn(self) -> None:
        """Tokenise everything noted since `collect`, at once."""
        wanted, self._wanted = list(self._wanted or ()), None
        plain = [key for key in wanted if not self._specials.search(key[0])]
        for key in set(wanted) - set(plain):
            self._known[key] = self._one(*key)
        anchor = self._anchor
        texts = [text if first or anchor is None else anchor + text for text, first in plain]
        for (text, first), ids in zip(plain, self._batch(texts)):
            self._known[text, first] = ids if first or anchor is None else ids[1:]

    def ids(self, text: str, first: bool) -> Ints:
        """Ids of `text`; `first`: as a string of its own, else as it stands after a special token."""
        if not text:
            return _NONE
        known = self._known.get((text, first))
        if known is None:
            if self._wanted is not None:
                self._wanted[text, first] = None
                return _NONE
            known = self._known[text, first] = self._one(text, first)
        return known

    def _one(self, text: str, first: bool) -> Ints:
        if self._specials.search(text):
            return self._as_text(text) if first or self._anchor is None else self._continued(text, self._as_text)
        if first or self._anchor is None:
            return self._batch([text])[0]
        return self._batch([self._anchor + text])[0][1:]

    def _continued(self, text: str, encode: Any) -> Ints:
        for anchor in _ANCHORS:
            start, whole = encode(anchor), encode(anchor + text)
            if len(whole) > len(start) and (whole[: len(start)] == start).all():
                return np.asarray(whole[len(start) :], dtype=np.int32)
        return np.asarray(encode(text), dtype=np.int32)

    def after(self, done: Ints, text: str, addition: str, first: bool) -> Ints:
        """Ids that `addition` adds to `text`, whose ids are `done`, without touching those."""
        whole = self.ids(text + addition, first)
        if not len(done) or not addition:
            return whole if addition else _NONE
        if len(whole) >= len(done) and (whole[: len(done)] == done).all():
            return whole[len(done) :]
        if self._wanted is not None:
            return _NONE
        self.merged += 1
        return self._continued(addition, self._as_text)
