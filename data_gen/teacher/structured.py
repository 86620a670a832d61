"""JSON out of a model's reply: asked for where the server can, found in the text where it cannot."""

from __future__ import annotations

import json
import re
from typing import Any

from data_gen.teacher.codec import decode

_FENCE = re.compile(r"```[a-zA-Z0-9_-]*\s*\n?(.*?)```", re.S)
_THINKING = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>", re.S)
_REFUSAL = re.compile(
    r"^\W*(?:i(?:['’]m| am) (?:so |very )?sorry\b|sorry,? (?:but )?i\b|as an ai\b"
    r"|i (?:can(?:['’]t|not)|won['’]t|must decline)\b|i(?:['’]m| am) (?:not able|unable) to\b)",
    re.I,
)
LONGEST_MENDED = 1 << 17  # characters of a reply that is worth mending, here or by another request
_CLOSES_STRING = re.compile(r"\s*[,:}\]]")
MEND = (
    "Your last reply could not be read as JSON. Send the same content again as one valid JSON value that follows the "
    "requested format, complete and with nothing before or after it."
)


def response_format(schema: dict[str, Any], name: str = "reply") -> dict[str, Any]:
    """The `response_format` value that asks an OpenAI-compatible server for `schema`."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def parse_json(text: str) -> Any | None:
    """The JSON object or list in a reply, or None where there is no whole one.

    Mends code fences, prose around, thinking blocks, trailing commas, single quotes, bare newlines in strings and
    Python's None/True/False. A reply that stops in the middle stays unreadable: nobody knows what it would have said.
    """
    try:
        value = decode(text)
    except ValueError:
        value = None
    if isinstance(value, (dict, list)):
        return value
    if len(text) > LONGEST_MENDED:
        return None
    for candidate in _candidates(text):
        mended = _load(candidate)
        if isinstance(mended, (dict, list)):
            return mended
    return None


def is_refusal(text: str) -> bool:
    """Does a reply without JSON read like "I'm sorry, but I can't …"?"""
    return bool(_REFUSAL.match(text))


def mend_messages(messages: list[dict[str, str]], reply: str) -> list[dict[str, str]]:
    """The conversation that asks to send an unreadable `reply` again."""
    return [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": MEND}]


def _candidates(text: str) -> list[str]:
    text = _THINKING.sub("", text)
    found = [match.group(1).strip() for match in _FENCE.finditer(text)]
    found += _balanced(text)
    return sorted(set(found), key=lambda piece: (-len(piece), piece))


def _balanced(text: str) -> list[str]:
    """The outermost {...} and [...] pieces of a text, quotes respected."""
    pieces: list[str] = []
    stack: list[str] = []
    start, quote, escaped = -1, "", False
    for index, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif stack and (char == '"' or (char == "'" and _opens_string(text, index))):
            quote = char
        elif char in "{[":
            if not stack:
                start = index
            stack.append("}" if char == "{" else "]")
        elif stack and char == stack[-1]:
            stack.pop()
            if not stack:
                pieces.append(text[start : index + 1])
    return pieces


def _opens_string(text: str, index: int) -> bool:
    index -= 1
    while index >= 0 and text[index].isspace():
        index -= 1
    return index < 0 or text[index] in "{[,:"


def _load(text: str) -> Any | None:
    for mend in (_as_is, _without_trailing_commas, _single_quoted):
        try:
            return json.loads(mend(text), strict=False)
        except (ValueError, RecursionError):
            continue
    return None


def _as_is(text: str) -> str:
    return text


def _without_trailing_commas(text: str) -> str:
    """Drop commas before a closing bracket, outside strings."""
    return _outside_strings(text, lambda piece: re.sub(r",(\s*[}\]])", r"\1", piece))


def _single_quoted(text: str) -> str:
    """Python's repr as JSON: strings in single quotes, None, True and False."""
    result, index = [], 0
    while index < len(text):
        char = text[index]
        if char == '"' or (char == "'" and _opens_string(text, index)):
            end, value = _string_at(text, index)
            result.append(json.dumps(value, ensure_ascii=False))
            index = end
        else:
            result.append(char)
            index += 1
    words = {"None": "null", "True": "true", "False": "false"}
    swapped = _outside_strings(
        "".join(result), lambda piece: re.sub(r"\b(None|True|False)\b", lambda m: words[m.group(1)], piece)
    )
    return _without_trailing_commas(swapped)


def _string_at(text: str, start: int) -> tuple[int, str]:
    """End and value of the string that opens at `start`. A single quote closes only before , : ] or }."""
    quote, index, value = text[start], start + 1, []
    while index < len(text):
        char = text[index]
        if char == "\\" and index + 1 < len(text):
            following = text[index + 1]
            value.append({"n": "\n", "t": "\t"}.get(following, following))
            index += 2
            continue
        if char == quote and (quote == '"' or _CLOSES_STRING.match(text, index + 1) or index + 1 == len(text)):
            return index + 1, "".join(value)
        value.append(char)
        index += 1
    raise ValueError("a string without end")


def _outside_strings(text: str, change: Any) -> str:
    pieces = re.split(r'("(?:[^"\\]|\\.)*")', text, flags=re.S)
    return "".join(piece if index % 2 else change(piece) for index, piece in enumerate(pieces))
