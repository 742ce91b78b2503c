"""What stands between the studio and other sites' pages: hosts, origins, passwords, headers.

Loopback alone does not protect a local server: any page open in the same browser can send it
requests, and DNS rebinding lets such a page read the answers. The middlewares below close that.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gradio.utils import get_upload_folder
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.core.settings import Settings
from studio.ui.logins import PasswordGuard, RoleGuard, logins_of

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
MAX_UPLOAD = "64mb"
MAX_EVENT_BYTES = 4_000_000  # a Gradio event is a handful of numbers and two prompts
CONTENT_SECURITY_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
RESPONSE_HEADERS = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)
PORT_AT_END = re.compile(r":[0-9]{1,5}$")
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def middleware(settings: Settings) -> list[Middleware]:
    """Return the guards, outermost first."""
    guards = [
        Middleware(ResponseHeaders),
        Middleware(HostGuard, listening=settings.host not in LOOPBACK_HOSTS),
        Middleware(OriginGuard),
    ]
    if settings.auth:
        guards.append(Middleware(PasswordGuard, logins=logins_of(settings)))
        guards.append(Middleware(RoleGuard))
    guards.append(Middleware(NoServerFetch, uploads=Path(get_upload_folder())))
    return guards


class ResponseHeaders:
    """Add the Content-Security-Policy and its two companions to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, with the headers on its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in RESPONSE_HEADERS:
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, send_with_headers)


class HostGuard:
    """Answer only under the studio's own names, so that DNS rebinding finds nothing.

    On loopback those are `LOOPBACK_HOSTS`. A listening studio is also reached under its addresses,
    which it cannot know beforehand, and under its machine's name; a rebinding page always comes
    under a DNS name of its own, so any literal address is safe.
    """

    def __init__(self, app: ASGIApp, listening: bool) -> None:
        self.app = app
        self.listening = listening
        machine = socket.gethostname().lower()
        self.names = {*LOOPBACK_HOSTS, *((machine, f"{machine}.local") if listening else ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request if it names one of our hosts, else answer 400."""
        if scope["type"] in ("http", "websocket") and not self._is_ours(Headers(scope=scope)):
            return await PlainTextResponse("Unknown host.", 400)(scope, receive, send)
        return await self.app(scope, receive, send)

    def _is_ours(self, headers: Headers) -> bool:
        host = urlsplit(f"//{headers.get('host', '')}").netloc.lower()
        name = host.rpartition(":")[0] if PORT_AT_END.search(host) else host
        return name in self.names or (self.listening and _is_address(name.strip("[]")))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OriginGuard:
    """Refuse state-changing requests that another site's page sent.

    It compares `Origin` with `Host`, so it is only sound behind `HostGuard`. Programs send no
    `Origin` and pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request if it reads, or comes from our own page or a program."""
        if scope["type"] == "http" and scope["method"] not in READING_METHODS:
            headers = Headers(scope=scope)
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
            if foreign or site in ("cross-site", "same-site"):
                refusal = PlainTextResponse("A request from another site's page was refused.", 403)
                return await refusal(scope, receive, send)
        return await self.app(scope, receive, send)


class NoServerFetch:
    """Refuse requests that would make the server fetch a URL, or a file of its own, for the caller.

    Two of Gradio's routes do (`/gradio_api/file=http...`, `/gradio_api/proxy=`), and so does a
    file value whose `url` or `path` is a web address in the JSON body of an event. A `path` of this
    machine is copied to where it can be downloaded: a mounted Gradio 6.31 takes any (its own check
    waits for a `launch()` that never comes), so only what lies among the `uploads` passes.
    """

    def __init__(self, app: ASGIApp, uploads: Path) -> None:
        self.app = app
        self.uploads = uploads.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request if nothing in it is to be fetched, else answer 403."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if _path_fetches(scope["path"]):
            return await _refuse(scope, receive, send)
        if scope["method"] in READING_METHODS or "json" not in Headers(scope=scope).get(
            "content-type", ""
        ):
            return await self.app(scope, receive, send)
        body = await _read_body(receive)
        if body is None:
            return await PlainTextResponse("The request is too large.", 413)(scope, receive, send)
        if _body_fetches(body, self.uploads):
            return await _refuse(scope, receive, send)
        return await self.app(scope, _replay(body, receive), send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    said = "The studio fetches nothing from the net, and of its own files only uploaded ones."
    await PlainTextResponse(said, 403)(scope, receive, send)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or None when it is larger than any event of the page."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_EVENT_BYTES:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands out `body` once and then whatever the connection says."""
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def _path_fetches(path: str) -> bool:
    decoded = unquote(unquote(path)).lower()
    _, marker, target = decoded.partition("/gradio_api/file=")
    return "/gradio_api/proxy=" in decoded or (bool(marker) and _is_web_address(target))


def _body_fetches(body: bytes, uploads: Path) -> bool:
    """True when any file value in the JSON body names a web address, or no uploaded file."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # not JSON: the application answers 422
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if _names_web_file(value) or _names_other_file(value, uploads):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _names_web_file(value: dict) -> bool:
    named = (value.get("url"), value.get("path"))
    return any(isinstance(text, str) and _is_web_address(text) for text in named)


def _names_other_file(value: dict, uploads: Path) -> bool:
    """Whether this is a file value as Gradio knows them, whose path is not that of an upload."""
    meta, path = value.get("meta"), value.get("path")
    if not isinstance(meta, dict) or meta.get("_type") != "gradio.FileData" or path is None:
        return False
    try:
        return not Path(path).resolve().is_relative_to(uploads)
    except (TypeError, ValueError, OSError, RuntimeError):  # no text, a zero byte, a loop of links
        return True


def _is_web_address(text: str) -> bool:
    compact = text.strip().lower().replace("\\", "/").lstrip("/")
    return compact.startswith(("http:", "https:", "ftp:", "file:"))
