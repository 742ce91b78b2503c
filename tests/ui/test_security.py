"""The settings S1 to S15 against other sites' pages, each tried on a running studio."""

from __future__ import annotations

import base64
import re
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.errors import EaselError
from studio.core.settings import REPOSITORY, Settings
from studio.ui.app import run
from studio.ui.security import CONTENT_SECURITY_POLICY
from tests.ui.served import Served, served

FOREIGN = {"Origin": "http://evil.example"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_s1_it_listens_on_loopback_only(page: Served):
    with pytest.raises(ConnectionRefusedError), socket.socket() as other:
        other.connect(("127.0.0.2", page.port))


def test_s1_listening_to_others_without_a_password_is_refused(settings: Settings):
    with pytest.raises(EaselError, match="--auth"):
        run(replace(settings, host="0.0.0.0"))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example"])
def test_s2_an_unknown_host_is_refused(page: Served, host: str):
    assert page.ask("/", headers={"Host": host}).status == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7860", "[::1]:7860"])
def test_s2_its_own_names_are_answered(page: Served, host: str):
    assert page.ask("/easel/health", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_s3_a_foreign_page_uploads_nothing(page: Served, headers: dict):
    assert page.upload(PNG, headers).status == 403


def test_s3_our_own_page_and_programs_may_upload(page: Served):
    assert page.upload(PNG, {"Origin": page.url}).status == 200
    assert page.upload(PNG).status == 200


@pytest.mark.parametrize(
    "path",
    ["/easel/pictures/1/delete", "/easel/jobs/a/cancel", "/easel/form", "/gradio_api/queue/join"],
)
def test_s3_a_foreign_page_changes_nothing(page: Served, path: str):
    assert page.ask(path, "POST", FOREIGN, {"prompt": "x"}).status == 403


@pytest.mark.parametrize("verb", ["star", "rate", "delete", "restore"])
def test_s3_nothing_changes_on_get(page: Served, verb: str):
    assert page.ask(f"/easel/pictures/1/{verb}").status in (404, 405)


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/easel/state"])
def test_s4_no_other_origin_may_read(page: Served, path: str):
    assert "access-control-allow-origin" not in page.ask(path, headers=FOREIGN).headers


def test_s5_a_too_large_upload_is_refused(page: Served):
    assert page.upload(bytes(70_000_000)).status == 413


def test_s6_no_tunnel_is_opened_even_if_the_environment_asks_for_one(page: Served, offline: Path):
    assert page.ask("/config").json().get("share_url") is None
    assert page.ask("/easel/health").status == 200
    assert "gradio" not in offline.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        f"{REPOSITORY}/studio/ui/app.py",
        f"{REPOSITORY}/.git/config",
        "{data}/easel.sqlite3",
        "{data}/run/../easel.sqlite3",
        "{data}/studio.lock",
        "{data}/.hidden",
    ],
)
def test_s7_no_file_outside_the_uploads_is_served(page: Served, path: str):
    (page.data_dir / ".hidden").write_text("secret")
    answer = page.ask("/gradio_api/file=" + path.format(data=page.data_dir))
    assert answer.status in (403, 404)
    assert page.ask("/gradio_api/file/" + path.format(data=page.data_dir)).status in (403, 404)


@pytest.mark.parametrize("path", ["/easel/page/..%2f..%2flaunch.py", "/easel/page/../../launch.py"])
def test_s7_our_own_files_stay_in_their_folder(page: Served, path: str):
    assert b"def main" not in page.ask(path).body


def test_s8_it_works_in_an_empty_folder_of_its_own(page: Served):
    cwd = Path(f"/proc/{page.process.pid}/cwd").resolve()
    assert cwd == (page.data_dir / "run").resolve()
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("path", ["picture", "thumbnail"])
@pytest.mark.parametrize("name", ["..%2feasel.sqlite3", "%2Fetc%2Fpasswd", "1.png", "-1", "99999"])
def test_s8_a_path_is_no_picture(page: Served, path: str, name: str):
    assert page.ask(f"/easel/{path}/{name}").status in (404, 422)


def test_s9_uploads_go_to_a_private_folder_below_the_data_folder(page: Served):
    (uploaded,) = page.upload(PNG).json()
    folder = page.data_dir / "gradio"
    assert Path(uploaded).is_relative_to(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_s10_monitoring_docs_and_history_are_off(page: Served):
    assert page.ask("/monitoring").status in (403, 404)
    assert page.ask("/gradio_api/monitoring").status in (403, 404)
    assert page.ask("/openapi.json").status == 404
    assert page.ask("/docs").status == 404
    assert page.ask("/config").json()["run_history"] is False


def test_s11_the_page_names_no_other_host_to_load_from(page: Served):
    html = page.ask("/").body.decode()
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', html)
    assert loaded
    assert not [address for address in loaded if address.startswith(("http", "//"))]


@pytest.mark.parametrize("path", ["/", "/config", "/easel/state", "/easel/page/easel.js", "/none"])
def test_s12_every_answer_carries_the_headers(page: Served, path: str):
    headers = page.ask(path).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_s12_refusals_carry_the_headers_too(page: Served):
    assert "content-security-policy" in page.ask("/", headers={"Host": "evil.example"}).headers


def test_s13_a_prompt_comes_back_as_json_text_never_as_html(page: Served):
    hostile = "<img src=x onerror=alert(1)>"
    page.ask("/easel/form", "POST", body={"prompt": hostile})
    assert hostile.encode() not in page.ask("/").body
    assert page.ask("/easel/state").headers["content-type"].startswith("application/json")


def test_s14_with_a_password_nothing_is_served_without_it(tmp_path: Path, models_dir: Path):
    key = {"Authorization": "Basic " + base64.b64encode("ann:süß:1".encode()).decode()}
    wrong = {"Authorization": "Basic " + base64.b64encode(b"ann:no").decode()}
    (tmp_path / "data").mkdir()
    flags, interrupt = ("--auth", "ann:süß:1"), signal.SIGINT
    with served(tmp_path / "data", models_dir, flags, ending=interrupt) as studio:
        for path in ("/", "/config", "/easel/state", "/easel/page/easel.js", "/gradio_api/info"):
            assert studio.ask(path).status == 401
            assert studio.ask(path, headers=wrong).status == 401
            answer = studio.ask(path, headers=key)
            assert answer.status == 200
            assert "samesite=none" not in answer.headers.get("set-cookie", "").lower()
        assert studio.upload(PNG).status == 401
        assert studio.upload(PNG, key | FOREIGN).status == 403
        assert studio.upload(PNG, key).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://10.0.0.1/a.png",
        "/gradio_api/file=https:/example.org/a.png",
        "/gradio_api/file=HTTP%3A%2F%2Fexample.org",
        "/gradio_api/file=%2568ttp://example.org",
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/proxy%3Dhttp://example.org/",
    ],
)
def test_s15_the_server_fetches_no_address(page: Served, path: str):
    assert page.ask(path).status == 403


@pytest.mark.parametrize("key", ["url", "path"])
def test_s15_a_file_value_with_a_web_address_is_refused(page: Served, key: str):
    event = {"data": [{"image": {key: "https://example.org/a.png"}}], "fn_index": 0}
    assert page.ask("/gradio_api/run/predict", "POST", body=event).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{data}/easel.sqlite3",
        "{data}/gradio/../easel.sqlite3",
        "easel.sqlite3",
        "\0",
        7,
    ],
)
def test_s7_a_file_value_that_names_no_upload_copies_nothing(page: Served, path: object):
    named = path.format(data=page.data_dir) if isinstance(path, str) else path
    value = {"path": named, "meta": {"_type": "gradio.FileData"}}
    before = sorted((page.data_dir / "gradio").rglob("*"))
    for name in ("txt2img", "img2img"):
        answer = page.ask(f"/gradio_api/call/{name}", "POST", body={"data": [value]})
        assert answer.status == 403
    assert sorted((page.data_dir / "gradio").rglob("*")) == before
