"""Bytes to an endpoint and back, on bare aiohttp. No retries here: `client.py` decides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from yarl import URL

from data_gen.environment import proxy_for
from extes_train.errors import TeacherError

_JSON = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Answer:
    """What came back: the status, the whole body and the Retry-After header."""

    status: int
    body: bytes
    retry_after: str | None


class TransportError(Exception):
    """No whole answer came back. `cause` is one word for the statistics; `reached` is False if nobody listened."""

    def __init__(self, cause: str, detail: str, reached: bool = True) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.reached = reached


class Http:
    """One connection pool to one base URL. Its size has no limit: whoever waits, waits in our own gate."""

    def __init__(self, base_url: str, key: str | None, timeout_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        if not self.base_url.startswith(("http://", "https://")):
            raise TeacherError(f"teacher.base_url={base_url!r}: must start with http:// or https://")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._proxy = proxy_for(self.base_url)

    async def __aenter__(self) -> Http:
        self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60)
        self._session = self._open_session({**self._headers, **_JSON})
        self._forms = self._open_session(self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._forms.close()
            await self._session.close()
            await self._connector.close()
            self._session = None

    def _open_session(self, headers: dict[str, str]) -> aiohttp.ClientSession:
        """Headers that are the same for all requests are given once: aiohttp merges them anew for each otherwise."""
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            headers={**headers, "User-Agent": "extes", "Accept": "*/*"},
            skip_auto_headers=("Accept-Encoding",),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def post(self, path: str, body: bytes) -> Answer:
        """POST JSON to `path` (relative to the base URL). Raises TransportError."""
        return await self.request("POST", path, body)

    async def get(self, path: str) -> Answer:
        """GET `path`. Raises TransportError."""
        return await self.request("GET", path)

    async def request(self, method: str, path: str, data: bytes | aiohttp.FormData | None = None) -> Answer:
        """Send bytes (JSON) or a multipart form. Raises TransportError."""
        assert self._session is not None, "Http is used outside its `async with`"
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.base_url + path)
        session = self._forms if isinstance(data, aiohttp.FormData) else self._session
        try:
            async with session.request(method, url, data=data, proxy=self._proxy) as response:
                return Answer(response.status, await response.read(), response.headers.get("Retry-After"))
        except (asyncio.TimeoutError, TimeoutError):
            raise TransportError("timeout", f"no answer within {self._timeout.total} s") from None
        except aiohttp.InvalidURL as error:
            raise TeacherError(f"teacher.base_url={self.base_url!r}: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise TransportError("connect", str(error), reached=False) from None
        except aiohttp.ClientPayloadError as error:
            raise TransportError("truncated", str(error).splitlines()[0]) from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError("reset", str(error) or type(error).__name__) from None
