"""Who may come in, and how far: passwords (HTTP Basic), and the two roles behind them.

The owner's login (`--auth`) opens the whole studio. A rater's (`--rater`, any number) opens a page
of its own with the Rate tab and the addresses that this page needs, and nothing else: neither the
gallery, whose recipes would give away what is being compared, nor Gradio, which could draw.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from typing import Literal

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from studio.core.settings import Settings

Role = Literal["owner", "rater"]
SCOPE_KEY = "easel.login"  # where the guard leaves the login for the routes
RATE_PAGE = "/easel/rate/page"  # what a rater's `/` shows
RATERS_MAY = ("/easel/rate/", "/easel/page/", "/static/fonts/")
OWNERS_ONLY = "/easel/rate/owner/"  # campaigns, scores, reports


@dataclass(frozen=True)
class Login:
    """A name that gave its password."""

    name: str
    role: Role


def logins_of(settings: Settings) -> dict[bytes, Login]:
    """Return each login by the bytes `user:password` that HTTP Basic sends for it."""
    rows = [(user, password, "rater") for user, password in settings.raters]
    if settings.auth:
        rows.append((*settings.auth, "owner"))
    return {f"{user}:{password}".encode(): Login(user, role) for user, password, role in rows}


def login_of(scope: Scope) -> Login | None:
    """Return who sent a request, None when the studio asks for no password."""
    return scope.get(SCOPE_KEY)


class PasswordGuard:
    """Ask for a user and password before anything is served, and note who it is.

    Basic rather than Gradio's login page: it covers our own routes and Gradio's alike and sets no
    cookie, so there is none whose SameSite attribute could be wrong.
    """

    def __init__(self, app: ASGIApp, logins: dict[bytes, Login]) -> None:
        self.app = app
        self.logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request if it brings a password, else ask for it."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        login = self._login(Headers(scope=scope))
        if login is None:
            refusal = PlainTextResponse(
                "Please give the studio's user and password.",
                401,
                {"WWW-Authenticate": 'Basic realm="Easel", charset="UTF-8"'},
            )
            return await refusal(scope, receive, send)
        return await self.app({**scope, SCOPE_KEY: login}, receive, send)

    def _login(self, headers: Headers) -> Login | None:
        scheme, _, encoded = headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return None
        if scheme.lower() != "basic":
            return None
        # Every login is compared, so that the time taken does not tell which one is nearly right.
        found = [who for known, who in self.logins.items() if secrets.compare_digest(given, known)]
        return found[0] if found else None


class RoleGuard:
    """Let a rater reach the Rate page and what it needs; everything else is the owner's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request as far as the role of its login reaches."""
        login = login_of(scope)
        if login is None or login.role == "owner":
            return await self.app(scope, receive, send)
        if scope["path"] == "/":
            return await self.app({**scope, "path": RATE_PAGE}, receive, send)
        if not may_rater_reach(scope["path"]):
            refusal = PlainTextResponse("This login rates pictures; the rest is the owner's.", 403)
            return await refusal(scope, receive, send)
        return await self.app(scope, receive, send)


def may_rater_reach(path: str) -> bool:
    """Tell whether an address (percent-decoded, as the server routes it) is for raters."""
    if ".." in path.split("/") or "//" in path:
        return False
    return path.startswith(RATERS_MAY) and not path.startswith(OWNERS_ONLY)
