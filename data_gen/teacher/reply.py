"""What the body of an endpoint's answer says: a completion, or an error in the endpoint's own words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from data_gen.teacher.codec import decode_loosely
from data_gen.teacher.http import TransportError

CHARACTERS_PER_TOKEN = 4  # a guess, used for limits before the endpoint has counted
MOST_TOKENS = 1 << 31  # of one reply; a larger count is none
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.S | re.I)

# finish reasons of servers that use other words than OpenAI; what is named nowhere here ended as it should
_FINISH_REASONS = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length", "token_limit"), "length"),
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"), "content_filter"
    ),
    "refusal": "refusal",
}
_BROKEN_OFF = ("error", "abort", "aborted", "cancelled", "insufficient_system_resource")  # by the server: asked again


@dataclass(slots=True)
class Completion:
    """One reply. `finish_reason`: stop, length, content_filter, refusal or context_length (the prompt was too long)."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int = 1
    parsed: Any | None = None  # the JSON value, where a schema was given and the reply holds one
    repaired: bool = False  # it took a second request to get it


def read_completion(body: bytes, request: bytes) -> Completion:
    """A 200's body as a Completion; TransportError where it is no chat completion.

    Half surrogate pairs become U+FFFD. Token counts that are missing or make no sense are guessed from the lengths.
    """
    try:
        reply = decode_loosely(body)
    except ValueError:
        raise TransportError("truncated", f"no chat completion: {reason_of(body)[:200]!r}") from None
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text = _text(message.get("content"))
        reason = choice.get("finish_reason") or "stop"
        if reason != "stop":
            reason = _finish_reason(str(reason))
        if message.get("refusal"):
            text, reason = text or _whole(str(message["refusal"])), "refusal"
    except (KeyError, IndexError, TypeError, AttributeError):
        raise TransportError("no completion", f"no chat completion: {reason_of(body)[:200]!r}") from None
    usage = reply.get("usage")
    return Completion(
        text,
        reason,
        _tokens(usage, "prompt_tokens", len(request) // CHARACTERS_PER_TOKEN),
        _tokens(usage, "completion_tokens", len(text) // CHARACTERS_PER_TOKEN),
    )


def status_within(body: bytes) -> int | None:
    """The HTTP status that `{"error": {"code": 429}}` names in a 200's body, as gateways send it; None without one."""
    try:
        error = decode_loosely(body)["error"]
        status = int(error.get("code") or error.get("status") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return status if 400 <= status < 600 else None


def reason_of(body: bytes) -> str:
    """The endpoint's own words about an error, on one line, without the tags of an HTML page."""
    try:
        value = decode_loosely(body)
        error = value.get("error", value) if isinstance(value, dict) else value
        if isinstance(error, dict):
            parts = [str(error[key]) for key in ("message", "code", "detail", "param") if error.get(key)]
            error = " · ".join(dict.fromkeys(parts)) or error
        text = str(error)
    except ValueError:
        text = _TAG.sub(" ", body[:20_000].decode("utf-8", "replace"))
    return " ".join(_whole(text[:20_000]).split())[:400]


def _text(content: Any) -> str:
    """A message's content: text, nothing, or a list of parts."""
    if isinstance(content, str):
        return _whole(content)
    if content is None:
        return ""
    return _whole("".join(part["text"] for part in content if part.get("type", "text") == "text"))


def _whole(text: str) -> str:
    """`text` without half surrogate pairs, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _finish_reason(reason: str) -> str:
    reason = reason.lower()
    if reason in _BROKEN_OFF:
        raise TransportError("aborted", f"the endpoint broke the reply off: finish_reason={reason}")
    return _FINISH_REASONS.get(reason, "stop")


def _tokens(usage: Any, key: str, guess: int) -> int:
    value = usage.get(key) if isinstance(usage, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= MOST_TOKENS:
        return int(value)
    return guess
