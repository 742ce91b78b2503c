"""Under which names a studio answers that listens to the network: S2 with `--listen`."""

from __future__ import annotations

import base64
import socket

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from studio.core.settings import Settings
from studio.ui.security import middleware

KEY = {"Authorization": "Basic " + base64.b64encode(b"ada:secret").decode()}


def guarded(host: str) -> TestClient:
    """A bare app behind the studio's real guards, as it is served with `--listen HOST`."""

    async def answer(_request: object) -> PlainTextResponse:
        return PlainTextResponse("inside")

    settings = Settings(host=host, auth=("ada", "secret"))
    app = Starlette(routes=[Route("/", answer)], middleware=middleware(settings))
    return TestClient(app, raise_server_exceptions=False)


def status(host: str, name: str) -> int:
    return guarded(host).get("/", headers=KEY | {"Host": name}).status_code


MACHINE = socket.gethostname()


@pytest.mark.parametrize(
    "name",
    [
        "192.168.0.7:7860", "10.1.2.3", "[fe80::1]:7860", "[::1]", "127.0.0.1:7860", "localhost",
        MACHINE, f"{MACHINE.upper()}:7860", f"{MACHINE}.local:7860",
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::"])
def test_a_listening_studio_answers_under_addresses_and_its_machines_name(host: str, name: str):
    assert status(host, name) == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example", "evil.example:7860", "192.168.0.7.evil.example", "evil.local",
        f"{MACHINE}.evil.example", f"not{MACHINE}", "127.0.0.1@evil.example", "999.1.1.1", "",
    ],
)  # fmt: skip
def test_a_listening_studio_refuses_every_other_name(name: str):
    assert status("0.0.0.0", name) == 400


@pytest.mark.parametrize("name", ["192.168.0.7:7860", f"{MACHINE}.local"])
def test_a_studio_on_loopback_answers_under_neither(name: str):
    assert status("127.0.0.1", name) == 400


def test_an_unknown_name_is_refused_before_the_password_is_asked_for():
    asked = guarded("0.0.0.0").get("/", headers={"Host": "evil.example"})
    assert (asked.status_code, "www-authenticate" in asked.headers) == (400, False)
    unknown = guarded("0.0.0.0").get("/", headers={"Host": "10.0.0.9"})
    assert (unknown.status_code, "www-authenticate" in unknown.headers) == (401, True)
