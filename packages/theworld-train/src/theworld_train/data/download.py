"""One URL, safely: what a stranger's server sends cannot cost more than the limits, or reach this network."""

import asyncio
import contextlib
import email.utils
import hashlib
import importlib.metadata
import re
import socket
import ssl
import time
import warnings
import weakref
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import EMFILE, ENFILE
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any, BinaryIO, Self

import aiohttp
import tenacity
from PIL import Image
from yarl import URL

from theworld_train.data.address import is_public
from theworld_train.data.failure import Failure, one_line
from theworld_train.data.picture import check_picture
from theworld_train.errors import UsageError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_IN_MEMORY = 1 << 20
"""A body above this many bytes lies in a temporary file."""
_DECODERS = 2
"""Pictures that are decoded at a time: each may need the memory of ``max_pixels``."""
_LONGEST_WAIT = 30.0
"""Seconds; a server that asks for a longer pause is not asked again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one URL may cost, and how many are asked at once.

    Attributes:
        connections: at a time, to all hosts.
        per_host: at a time, to one host.
        timeout: seconds for one try in all: name, connection, redirects and body. Waiting for a turn does not count.
        max_bytes: of a body, also once it is decompressed.
        max_pixels: width times height.
        retries: further tries after one that failed for a reason that may pass.
        backoff: seconds; the first pause is a random part of it, and it doubles.
    """

    connections: int = 64
    per_host: int = 8
    timeout: float = 10.0
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    retries: int = 3
    backoff: float = 1.0


@dataclass(kw_only=True, slots=True)
class Download:
    """What became of one URL; ``outcome`` is ``ok`` or a ``Failure``'s."""

    outcome: str
    message: str = ""
    transient: bool = False
    attempts: int = 0
    status: int | None = None
    size: int | None = None
    sha256: str | None = None
    format: str | None = None
    content_type: str | None = None


Keep = Callable[[BinaryIO], None]
"""Takes a body that is a picture, from its first byte on; it runs in another thread."""


class PrivateAddress(OSError):
    """An address that is not public; one text for all, so that aiohttp raises it as it is for several, too."""

    def __init__(self) -> None:
        super().__init__("the address is not a public one")


class Downloader:
    """Downloads pictures; used as an asynchronous context manager.

    Args:
        allow: whether a numeric address may be connected to. It is asked about the very address of every connection,
            so redirects, odd spellings and names that change their address are covered.
    """

    def __init__(self, limits: Limits, *, allow: Callable[[str], bool] = is_public) -> None:
        self.limits = limits
        self._allow = allow
        self._turns = asyncio.Semaphore(limits.connections)
        self._hosts: weakref.WeakValueDictionary[tuple[Any, ...], asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        # Names are looked up in threads that mostly wait; asyncio's few would be the narrowest place of all.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.limits.connections))
        self._exits.enter_context(self._decoders)
        self._exits.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
        connector = aiohttp.TCPConnector(
            limit=0,  # turns are taken here: aiohttp's own queue would count against the time of a URL
            socket_factory=self._socket,
            ttl_dns_cache=300,
            keepalive_timeout=1,  # lists name many hosts, and every idle connection is an open file
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,  # it knows no limit of ours
            headers={
                "User-Agent": f"theworld-train/{importlib.metadata.version('theworld-train')}",
                "Accept-Encoding": "identity",
            },
        )
        self._session = await self._exits.enter_async_context(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    async def fetch(self, url: str | None, keep: Keep) -> Download:
        """Download a URL, check that it is a picture, and hand its bytes to ``keep``.

        Raises:
            UsageError: this process has no file descriptors left, which is not the URL's fault.
            OSError: a body cannot be stored.
        """
        attempts = 0
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.limits.retries + 1),
            retry=tenacity.retry_if_exception(_may_pass),
            wait=self._pause,
            reraise=True,
        )
        try:
            parsed = parse_url(url)
            async for attempt in retrying:
                with attempt:
                    attempts += 1
                    found = await self._try(parsed, keep)
                    found.attempts = attempts
                    return found
        except Failure as failure:
            return Download(
                outcome=failure.outcome,
                message=failure.message,
                transient=failure.transient,
                status=failure.status,
                attempts=attempts,
            )
        raise AssertionError("tenacity stopped without a result or an error")

    async def _try(self, url: URL, keep: Keep) -> Download:
        left = self.limits.timeout
        for _ in range(_MAX_REDIRECTS + 1):
            # A host's turn first, so that nobody waits for a busy host on a connection that others could have.
            async with self._host(url), self._turns:
                with SpooledTemporaryFile(_IN_MEMORY) as body:
                    began = time.monotonic()
                    answer = await self._ask(url, body, left)
                    left -= time.monotonic() - began
                    if isinstance(answer, Download):
                        # The turn is not over yet: there are never more bodies than connections.
                        loop = asyncio.get_running_loop()
                        return await _to_the_end(loop.run_in_executor(self._decoders, self._check, body, answer, keep))
            url = answer
        raise Failure("too-many-redirects", f"more than {_MAX_REDIRECTS} redirects")

    def _host(self, url: URL) -> asyncio.Semaphore:
        """The turns of a host; they vanish with the last that waits for one."""
        key = (url.host, url.port)
        turns = self._hosts.get(key)
        if turns is None:
            self._hosts[key] = turns = asyncio.Semaphore(self.limits.per_host)
        return turns

    def _check(self, body: Any, found: Download, keep: Keep) -> Download:
        body.seek(0)
        try:
            found.format = check_picture(body, self.limits.max_pixels)
        except Failure as failure:
            failure.status = found.status
            raise
        body.seek(0)
        keep(body)
        return found

    async def _ask(self, url: URL, body: Any, seconds: float) -> Download | URL:
        """One request: its body, or where it is redirected to."""
        try:
            async with asyncio.timeout(seconds), self._session.get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return _redirected(url, response.headers["Location"])
                return await self._read(response, body)
        except TimeoutError:
            raise Failure("timeout", f"not done in {self.limits.timeout:g} s", transient=True) from None
        except (aiohttp.ClientError, ConnectionError, ssl.SSLError) as error:
            raise _network_failure(error) from error
        except UnicodeError:
            raise Failure("invalid-url", "the host name cannot be encoded") from None
        except (ValueError, zlib.error) as error:
            raise Failure("bad-response", one_line(error)) from error

    async def _read(self, response: aiohttp.ClientResponse, body: Any) -> Download:
        status, limit = response.status, self.limits.max_bytes
        if status != 200:
            raise _http_failure(response)
        if (response.content_length or 0) > limit:
            raise Failure("too-large", f"{response.content_length:,} bytes, over {limit:,}", status=status)
        digest, size = hashlib.sha256(), 0
        async for piece in _decompressed(response):
            size += len(piece)
            if size > limit:
                raise Failure("too-large", f"more than {limit:,} bytes", status=status)
            digest.update(piece)
            body.write(piece)
        told = one_line(response.headers.get("Content-Type", ""), 100) or None
        return Download(outcome="ok", status=status, size=size, sha256=digest.hexdigest(), content_type=told)

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Where every connection begins, whatever led to it."""
        family, kind, protocol, _, address = info
        if not self._allow(address[0]):
            raise PrivateAddress
        return socket.socket(family, kind, protocol)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, Failure) else None
        return (asked or 0) + tenacity.wait_random_exponential(self.limits.backoff, max=_LONGEST_WAIT)(state)


def parse_url(url: str | None) -> URL:
    """A URL that may be asked.

    Raises:
        Failure: ``invalid-url``: it is none, not of http or https, or carries a user name or password.
    """
    try:
        parsed = URL((url or "").strip())
        known = parsed.scheme in ("http", "https") and bool(parsed.host) and parsed.port is not None
    except ValueError:  # its text may hold a password
        raise Failure("invalid-url", "cannot be parsed") from None
    if not known:
        raise Failure("invalid-url", "not an address of http or https")
    if parsed.user is not None or parsed.password is not None:
        raise Failure("invalid-url", "holds a user name or password")
    return parsed.with_fragment(None)


def without_credentials(url: str) -> str:
    """The URL as it may be written down."""
    return re.sub(r"^(\s*(?:[^:/?#]+:)?//)[^/?#]*@", r"\1", url)


def _redirected(url: URL, location: str) -> URL:
    try:
        return parse_url(str(url.join(URL(location))))
    except Failure as failure:
        raise Failure(failure.outcome, f"the target of its redirect {failure.message}") from None
    except ValueError:
        raise Failure("invalid-url", "the target of its redirect cannot be parsed") from None


async def _decompressed(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Pieces of the body, none much larger than ``_CHUNK``, however far they were compressed."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        async for chunk in response.content.iter_chunked(_CHUNK):
            yield chunk
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Failure("bad-response", f"Content-Encoding {encoding[:40]!r} was not asked for", status=response.status)
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two it is
    async for chunk in response.content.iter_chunked(_CHUNK):
        while chunk and not inflate.eof:
            yield inflate.decompress(chunk, _CHUNK)
            chunk = inflate.unconsumed_tail
    yield inflate.flush()
    if not inflate.eof:
        raise Failure("bad-response", "the compressed body ends early", status=response.status)


def _http_failure(response: aiohttp.ClientResponse) -> Failure:
    status = response.status
    transient = status in (408, 425, 429) or status >= 500
    wait = _seconds(response.headers.get("Retry-After"))
    return Failure(
        f"http-{status}", one_line(response.reason or "", 100), status=status, transient=transient, retry_after=wait
    )


def _seconds(retry_after: str | None) -> float | None:
    """Of a ``Retry-After`` header: a number, or a date."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", retry_after):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _network_failure(error: Exception) -> Failure:
    """What aiohttp's error says about the URL.

    Raises:
        UsageError: nothing: it is this process that is at its end.
    """
    cause = getattr(error, "os_error", error)
    if isinstance(error, aiohttp.InvalidURL):
        return Failure("invalid-url", "cannot be asked")
    if isinstance(cause, PrivateAddress):
        return Failure("private-address", str(cause))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        again = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        return Failure("dns", one_line(cause), transient=again)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Failure("tls", one_line(cause))
    if isinstance(error, aiohttp.ClientResponseError):
        return Failure("bad-response", one_line(error.message))
    if isinstance(cause, OSError) and cause.errno in (EMFILE, ENFILE):
        reason = "This process may not open more files"
        raise UsageError(f"{reason} ({cause.strerror}). Lower --connections, or raise `ulimit -n`.") from error
    return Failure("connection", one_line(cause) or type(error).__name__, transient=True)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Failure) and error.transient and (error.retry_after or 0) <= _LONGEST_WAIT


async def _to_the_end(work: asyncio.Future[Download]) -> Download:
    """Wait for a thread even when cancelled: it reads a file that would be closed under it."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # what ended the job came first; this is seen, and not told
        raise
