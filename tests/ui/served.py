"""A really started studio on a free port, and raw requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from studio.core.settings import REPOSITORY

END_SECONDS = 180  # on a busy machine, with a step of the device's to wait for


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A running studio."""

    process: subprocess.Popen[str]
    url: str
    data_dir: Path

    @property
    def port(self) -> int:
        return urlsplit(self.url).port

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | dict | None = None,
    ) -> Answer:
        """Send one raw request; a dict goes as JSON."""
        sent = dict(headers or {})
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def upload(self, content: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Upload a file as Gradio's page does."""
        head = (
            '--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
            "Content-Type: image/png\r\n\r\n"
        )
        body = head.encode() + content + b"\r\n--edge--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        return self.ask("/gradio_api/upload", "POST", kind | dict(headers or {}), body)


@contextmanager
def served(
    data_dir: Path,
    models_dir: Path,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    ending: signal.Signals = signal.SIGTERM,
) -> Iterator[Served]:
    """Start a studio as an artist does, and end it with a signal; it must exit with 0."""
    folders = ["--data-dir", str(data_dir), "--models-dir", str(models_dir)]
    process = subprocess.Popen(
        [sys.executable, "launch.py", "ui", "--skip-install", "--port", "0", *folders, *flags],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        cwd=REPOSITORY,
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), f"The studio did not start: {url!r}"
        yield Served(process, url, data_dir)
    finally:
        process.send_signal(ending)
        code = process.wait(timeout=END_SECONDS)
        process.stdout.close()
    assert code == 0
