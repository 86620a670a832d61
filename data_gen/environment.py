"""Every environment variable that `data_gen` reads."""

from __future__ import annotations

import os
import sys
import urllib.parse
import urllib.request


def teacher_key(variable: str) -> str | None:
    """The endpoint's key from the environment variable of that name; None when it is unset or empty."""
    return os.environ.get(variable, "").strip() or None


def proxy_for(url: str) -> str | None:
    """The proxy that HTTP(S)_PROXY and NO_PROXY give for `url`: looked up once, not for each request."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def child_environment() -> dict[str, str]:
    """The environment of a Python child that must find the same packages as this process."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path}
