"""JSON for the wire: orjson where it is installed, else the standard library. Both write UTF-8 without spaces."""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson

    encode = orjson.dumps
    decode = orjson.loads
except ImportError:

    def encode(value: Any) -> bytes:  # type: ignore[misc]
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")

    def decode(text: Any) -> Any:
        return json.loads(text)


def decode_loosely(body: bytes) -> Any:
    """The value of a body that `decode` may refuse: a byte order mark, UTF-16, bytes that are no UTF-8 (replaced by
    U+FFFD), NaN, half of a surrogate pair (left as it is). Raises ValueError where there is no JSON in it."""
    try:
        return decode(body)
    except ValueError:
        pass
    try:
        return json.loads(body.decode(json.detect_encoding(body), "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


__all__ = ["decode", "decode_loosely", "encode"]
