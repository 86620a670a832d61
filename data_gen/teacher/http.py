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
LARGEST_BODY = 64 << 20  # of an answer; an endpoint that sends without end must not fill the memory
SECRET_LENGTH = 12  # a shorter key ("EMPTY", "none") may be a word of a dialogue: it stays in replies


@dataclass(slots=True)
class Answer:
    """What came back: the status, the whole body and the headers Retry-After and Location."""

    status: int
    body: bytes
    retry_after: str | None
    location: str | None = None


class TransportError(Exception):
    """No whole answer came back. `cause` is one word for the statistics; `reached` is False if nobody listened."""

    def __init__(self, cause: str, detail: str, reached: bool = True) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.reached = reached
        self.retry_after_s = 0.0  # what the endpoint asked for


class Http:
    """One connection pool to one base URL. Its size has no limit: whoever waits, waits in our own gate."""

    def __init__(self, base_url: str, key: str | None, timeout_s: float) -> None:
        self.base_url = check_address(base_url)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._secret = key.encode() if key and len(key) >= SECRET_LENGTH else None
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
            async with session.request(method, url, data=data, proxy=self._proxy, allow_redirects=False) as response:
                headers, length = response.headers, response.content_length
                if length is None or length > LARGEST_BODY or "Content-Encoding" in headers:
                    body = await _read_limited(response)
                else:
                    body = await response.read()
                if self._secret is not None and self._secret in body:  # an endpoint that sends the key back
                    body = body.replace(self._secret, "…".encode())
                return Answer(response.status, body, headers.get("Retry-After"), headers.get("Location"))
        except (asyncio.TimeoutError, TimeoutError):
            raise TransportError("timeout", f"no answer within {self._timeout.total} s") from None
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise TeacherError(f"teacher.base_url={self.base_url!r}: no address: {error}") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise TeacherError(
                f"teacher.base_url={self.base_url}: its certificate is not trusted ({error.certificate_error}); "
                f"SSL_CERT_FILE may name the authority's certificate"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise TransportError("connect", str(error), reached=False) from None
        except aiohttp.ClientPayloadError as error:
            raise TransportError("truncated", str(error).splitlines()[0]) from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError("reset", str(error) or type(error).__name__) from None


async def _read_limited(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > LARGEST_BODY:
            raise TransportError("too large", f"an answer of more than {LARGEST_BODY >> 20} MiB")
    return bytes(body)


def check_address(base_url: str) -> str:
    """`base_url` without a slash at its end. Raises TeacherError for what is no address of an endpoint."""
    if not base_url.startswith(("http://", "https://")):
        raise TeacherError(f"teacher.base_url={base_url!r}: must start with http:// or https://")
    try:
        url = URL(base_url)
        host, port = url.host, url.port
    except ValueError as error:
        raise TeacherError(f"teacher.base_url={base_url!r}: no address: {error}") from None
    if not host or not port:
        raise TeacherError(f"teacher.base_url={base_url!r}: names no host; write http://host:port/v1")
    if url.user or url.password:
        raise TeacherError("teacher.base_url: holds a user or password; keys come from teacher.key_variable alone")
    if url.query_string or url.fragment:
        raise TeacherError(f"teacher.base_url={base_url!r}: may hold no ? or #; write http://host:port/v1")
    return base_url.rstrip("/")
