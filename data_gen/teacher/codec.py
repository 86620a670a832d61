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


__all__ = ["decode", "encode"]
