"""A web server on this machine with good pictures and every kind of bad answer. As a program, it tells its port."""

import asyncio
import functools
import gzip
import io
import struct
import sys
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from aiohttp import web
from PIL import Image

GOOD = ("rgb.jpg", "rgb.png", "rgba.png", "palette.png", "grey.png", "rgb.webp", "rgba.webp", "anim.gif", "rgb.avif")
SVG = b'<?xml version="1.0"?>\n<!-- a drawing -->\n<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
HTML = b"<!DOCTYPE html><html><body>This picture has moved.</body></html>"


def picture(name: str, number: int = 0) -> bytes:
    """A small picture; another one for each number."""
    mode, _, kind = name.partition(".")
    colour = (number % 256, number // 256 % 256, 77)
    image = Image.new("RGB", (40, 30), colour)
    image.paste((200, 30, 30), (5, 5, 20, 20))
    options = {}
    if mode == "rgba":
        image.putalpha(120)
    elif mode == "palette":
        image = image.quantize(8)
    elif mode == "grey":
        image = image.convert("L")
    elif mode == "anim":
        options = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "blue")]}
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG"}.get(kind, kind.upper()), **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG whose header promises ``side`` x ``side`` pixels, and whose data begins as if it kept the promise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: a few bytes each, and the time of the whole picture."""
    file = io.BytesIO()
    Image.new("L", (900, 900), 90).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * scans + content[-2:]


class PictureServer:
    """The answers, and how often and how many at a time each path was asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path_qs.lstrip("/")] += 1
        self.headers.append(dict(request.headers))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._answer(request)
        except ConnectionError:  # who asked has gone
            return web.Response()
        finally:
            self.now -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.lstrip("/")
        number = int(request.query.get("n", 0))
        if name.startswith("good/"):
            return web.Response(body=picture(name.removeprefix("good/"), number), content_type="image/jpeg")
        if name.startswith("scans/"):
            return web.Response(body=scan_bomb(int(name.removeprefix("scans/"))))
        if name == "slow":
            await asyncio.sleep(float(request.query["s"]))
            return web.Response(body=picture("rgb.png", number), content_type="image/png")
        if name.startswith("status/"):
            return web.Response(status=int(name.removeprefix("status/")), body=b"no")
        if name == "redirect":
            return web.Response(status=302, headers={"Location": request.query["to"]})
        if name == "loop":
            return web.Response(status=302, headers={"Location": "/loop"})
        if name == "second-time":  # fails once
            if self.asked[request.path_qs.lstrip("/")] == 1:
                return web.Response(status=int(request.query["first"]), headers={"Retry-After": "1"})
            return web.Response(body=picture("rgb.png"))
        if name == "come-back":
            return web.Response(status=429, headers={"Retry-After": "3600"})
        fixed: dict[str, tuple[bytes, str]] = {
            "page.jpg": (HTML, "image/jpeg"),
            "drawing.svg": (SVG, "image/svg+xml"),
            "bomb.png": (bomb(60_000), "image/png"),
            "large.png": (bomb(8_000), "image/png"),
            "lies.png": (picture("rgb.jpg"), "image/png"),
            "cut.jpg": (picture("rgb.jpg")[:-200], "image/jpeg"),
            "empty.jpg": (b"", "image/jpeg"),
            "photo.tif": (b"II*\0" + bytes(100), "image/tiff"),
        }
        if name in fixed:
            body, kind = fixed[name]
            return web.Response(body=body, content_type=kind)
        streams: dict[str, Callable[[], AsyncIterator[bytes]]] = {"endless": _endless, "drip": _drip}
        if name in streams:
            return await self._stream(request, streams[name]())
        if name == "gzip-bomb":
            headers = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
            return web.Response(body=gzip_bomb(), headers=headers)
        if name == "gzip.png":
            return web.Response(body=gzip.compress(picture("rgb.png")), headers={"Content-Encoding": "gzip"})
        if name == "announced":  # a length alone is enough to refuse
            response = web.StreamResponse(headers={"Content-Length": str(10_000_000_000)})
            await response.prepare(request)
            await asyncio.sleep(60)
            return response
        if name == "closed":  # midway
            response = web.StreamResponse(headers={"Content-Length": "5000"})
            await response.prepare(request)
            await response.write(picture("rgb.jpg")[:300])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(status=404)

    @staticmethod
    async def _stream(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
        return response

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "0.0.0.0", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner


async def _endless() -> AsyncIterator[bytes]:
    yield picture("rgb.jpg")[:400]
    while True:
        yield bytes(1 << 18)


async def _drip() -> AsyncIterator[bytes]:
    for byte in picture("rgb.jpg"):
        yield bytes([byte])
        await asyncio.sleep(0.3)


@functools.cache
def gzip_bomb(megabytes: int = 300) -> bytes:
    """A thousandth of the size that it has when unpacked; it begins as a picture does."""
    deflate = zlib.compressobj(wbits=31)
    parts = [deflate.compress(picture("rgb.png")[:60])]
    parts += [deflate.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join([*parts, deflate.flush()])


async def serve(server: PictureServer, started: Callable[[asyncio.Event], object]) -> None:
    """Until the event that ``started`` is given is set."""
    runner, stop = await server.start(), asyncio.Event()
    started(stop)
    await stop.wait()
    await runner.cleanup()


@contextmanager
def picture_server() -> Iterator[PictureServer]:
    """The server in a thread of its own."""
    server = PictureServer()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def tell(stop: asyncio.Event) -> None:
        started.set_result((asyncio.get_running_loop(), stop))

    thread = threading.Thread(target=lambda: asyncio.run(serve(server, tell)), daemon=True)
    thread.start()
    loop, stop = started.result(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def main() -> None:
    server = PictureServer()
    asyncio.run(serve(server, lambda stop: (sys.stdout.write(f"{server.port}\n"), sys.stdout.flush())))


if __name__ == "__main__":
    main()
