"""`launch.py` as its users meet it: real processes, real environments, a package index on disk."""

import base64
import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import launch
from studio.core.settings import Settings
from studio.services.ownership import device_lock, own_studio, owner_of
from studio.store.check import find_database_fault
from studio.training.stages.command_line import STAGES

ROOT = Path(__file__).resolve().parents[1]
PIP_THAT_FAILS = {"PIP_RETRIES": "no number"}  # any run of pip ends with an error


def start(*arguments, folder=ROOT, **environment):
    """Run `python launch.py arguments` to its end."""
    return subprocess.run(
        [sys.executable, str(folder / "launch.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def build_wheel(folder, name, version, files):
    """Write a wheel by the book (PEP 427), so that the tests need no package index."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()[:-1]},"
        for path, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder of wheels: `brush` 1.0 and 2.0, `torch` 1.0, and this Python's own pip."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        build_wheel(folder, "brush", version, {"brush/__init__.py": b""})
    build_wheel(folder, "torch", "1.0", {"torch/__init__.py": b""})
    site = Path(sysconfig.get_path("purelib"))
    names = [p for p in (site / "pip").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    files = {p.relative_to(site).as_posix(): p.read_bytes() for p in names}
    build_wheel(folder, "pip", "23.2.1", files)
    return folder


@pytest.fixture(scope="module")
def offline_pip(wheels, tmp_path_factory):
    """Environment variables with which pip knows the wheels and no index."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": tmp_path_factory.mktemp("empty-index").as_uri(),
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": str(wheels),
    }


def write_checkout(folder):
    """Lay out a checkout that has only the launcher and one requirement."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "launch.py", folder)
    (folder / "requirements.txt").write_text("brush==1.0\n")
    return folder


@pytest.fixture(scope="module")
def first_start(tmp_path_factory, offline_pip):
    """A checkout after its first start, and what that start said."""
    folder = write_checkout(tmp_path_factory.mktemp("checkout") / "easel")
    return folder, start("--exit", folder=folder, **offline_pip)


@pytest.fixture
def checkout(first_start, tmp_path):
    """A copy of the started checkout that a test may break."""
    return shutil.copytree(first_start[0], tmp_path / "easel", symlinks=True)


def site_packages(folder):
    return next((folder / ".venv").glob("lib/python3*/site-packages"))


# The environment ------------------------------------------------------------------------------


def test_the_first_start_makes_the_environment_and_installs(first_start):
    folder, done = first_start
    assert (done.returncode, done.stdout) == (0, "")
    assert (site_packages(folder) / "brush-1.0.dist-info").is_dir()


def test_a_second_start_runs_no_pip_and_takes_less_than_a_second(checkout):
    seconds = []  # of the processor: other programs may keep this machine busy
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = start("--exit", folder=checkout, **PIP_THAT_FAILS)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert min(seconds) < 1.0


@pytest.mark.parametrize(
    "lost", [["brush"], ["brush-1.0.dist-info"], ["brush", "brush-1.0.dist-info"]]
)
def test_a_package_that_was_deleted_is_installed_again(checkout, offline_pip, lost):
    for name in lost:
        shutil.rmtree(site_packages(checkout) / name)
    assert start("--exit", folder=checkout, **offline_pip).returncode == 0
    assert (site_packages(checkout) / "brush" / "__init__.py").is_file()
    assert (site_packages(checkout) / "brush-1.0.dist-info").is_dir()
    assert start("--exit", folder=checkout, **PIP_THAT_FAILS).returncode == 0


def test_new_requirements_are_installed_at_the_next_start(checkout, offline_pip):
    (checkout / "requirements.txt").write_text("brush==2.0\n")
    assert start("--exit", folder=checkout, **PIP_THAT_FAILS).returncode == 1
    assert start("--exit", folder=checkout, **offline_pip).returncode == 0
    assert (site_packages(checkout) / "brush-2.0.dist-info").is_dir()


def test_a_package_that_nobody_has_is_explained_and_mended_by_the_next_start(checkout, offline_pip):
    (checkout / "requirements.txt").write_text("brush==1.0\neasel-that-nobody-made==1.0\n")
    failed = start("--exit", folder=checkout, **offline_pip)
    assert failed.returncode == 1
    assert "no package index was reached" in failed.stderr
    assert "Traceback" not in failed.stderr
    (checkout / "requirements.txt").write_text("brush==1.0\n")
    assert start("--exit", folder=checkout, **offline_pip).returncode == 0


def test_a_machine_without_network_is_told_so(checkout, offline_pip):
    (checkout / "requirements.txt").write_text("brush==3.0\n")
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    failed = start("--exit", folder=checkout, **{**offline_pip, **closed})
    assert failed.returncode == 1
    assert "connect this machine to the network" in failed.stderr


def test_a_signal_ends_an_installation_together_with_pip(checkout, offline_pip):
    (checkout / "requirements.txt").write_text("brush==3.0\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that never answers
        silent.settimeout(60)
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        installing = subprocess.Popen(
            [sys.executable, str(checkout / "launch.py"), "--exit"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **offline_pip, "PIP_INDEX_URL": index},
        )
        try:
            connection, _ = silent.accept()
            installing.send_signal(signal.SIGTERM)
            _, errors = installing.communicate(timeout=60)
            connection.settimeout(60)
            while connection.recv(4096):  # pip's request, then the end of pip
                pass
            connection.close()
        finally:
            installing.kill()
            installing.wait()
    assert installing.returncode == 130
    assert errors.endswith("Stopped.\n")
    assert "Traceback" not in errors


def test_the_torch_index_replaces_the_torch_that_is_there_and_is_kept(
    checkout, tmp_path, offline_pip
):
    (checkout / "requirements.txt").write_text("torch==1.0\n")
    gpu = build_wheel(tmp_path / "gpu" / "torch", "torch", "1.0+gpu", {"torch/__init__.py": b"g"})
    (gpu.parent / "index.html").write_text(f'<a href="{gpu.name}">{gpu.name}</a>')
    assert start("--exit", folder=checkout, **offline_pip).returncode == 0
    assert (site_packages(checkout) / "torch-1.0.dist-info").is_dir()
    index = ["--torch-index", (tmp_path / "gpu").as_uri()]
    assert start("--exit", *index, folder=checkout, **offline_pip).returncode == 0
    assert (site_packages(checkout) / "torch-1.0+gpu.dist-info").is_dir()
    for arguments in (index, []):
        done = start("--exit", *arguments, folder=checkout, **PIP_THAT_FAILS)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_environment_whose_python_is_gone_is_made_again(checkout, offline_pip):
    for python in (checkout / ".venv" / "bin").glob("python*"):
        python.unlink()
    assert start("--exit", folder=checkout, **offline_pip).returncode == 0
    assert (site_packages(checkout) / "brush-1.0.dist-info").is_dir()


def test_a_python_without_ensurepip_fills_the_environment_with_its_own_pip(tmp_path, offline_pip):
    lame = tmp_path / "debian" / "venv"
    lame.mkdir(parents=True)
    (lame / "__init__.py").touch()
    (lame / "__main__.py").write_text(
        "import runpy, sys\n"
        "if '--without-pip' not in sys.argv: sys.exit('ensurepip is not available')\n"
        "del sys.modules['venv']\n"
        f"sys.path.remove({str(lame.parent)!r})\n"
        "runpy.run_module('venv', run_name='__main__')\n"
    )
    checkout = write_checkout(tmp_path / "easel")
    paths = os.pathsep.join([str(lame.parent), os.environ["PYTHONPATH"]])
    done = start("--exit", folder=checkout, **{**offline_pip, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert (site_packages(checkout) / "pip").is_dir()
    assert (site_packages(checkout) / "brush").is_dir()


def test_a_folder_of_somebody_else_named_venv_is_left_alone(tmp_path):
    checkout = write_checkout(tmp_path)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "novel.txt").write_text("Chapter one")
    done = start("--exit", folder=checkout)
    assert done.returncode == 1
    assert "is not a Python environment" in done.stderr
    assert (checkout / ".venv" / "novel.txt").read_text() == "Chapter one"


def test_an_older_python_is_named_and_refused():
    program = (
        "import runpy, sys; sys.version_info = (3, 9, 2); sys.argv = ['launch.py']; "
        "runpy.run_path('launch.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, and this is 3.9.2" in done.stderr


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left",
            "is full",
        ),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "cannot be written to"),
        ("/usr/bin/python3: No module named pip", "apt install python3-venv"),
        ("Failed to establish: [Errno -3] Temporary failure in name resolution", "the network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "Python 3.11"),
        ("a wholly new failure", "a wholly new failure"),
    ],
)
def test_a_failed_installation_is_explained(output, words):
    assert words in launch.explain(output)


def test_the_environment_keeps_every_library_offline():
    program = "import launch, os; launch.set_environment(); print(dict(os.environ))"
    strange = {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "NO_PROXY": "studio.lan"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **strange},
        capture_output=True,
        text=True,
        check=True,
    )
    for expected in (
        "'GRADIO_ANALYTICS_ENABLED': 'False'",
        "'HF_HUB_OFFLINE': '1'",
        "'TRANSFORMERS_OFFLINE': '1'",
        "'DIFFUSERS_DISABLE_REMOTE_CODE': '1'",
        "'NO_PROXY': 'studio.lan,127.0.0.1,localhost'",
    ):
        assert expected in done.stdout
    assert "GRADIO_SHARE" not in done.stdout
    assert "GRADIO_SERVER_NAME" not in done.stdout


# Refusals and flags ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen"], "--auth user:password"),
        (["ui", "--listen", "192.168.0.2"], "--auth user:password"),
        (["--listen", "--auth", "nocolon"], "user:password"),
        (["--share"], "--share is refused"),
        (["--port", "70000"], "no port 70000"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--unknown"], "does not know --unknown"),
        (["generate", "--width", "wide"], "--width"),
        (["generate", "--port", "1"], "does not know --port 1"),
        (["train"], "stage"),
        (["paint"], "paint"),
        (["--rater", "bo:1"], "--rater needs --auth user:password"),
        (["--auth", "ada:1", "--rater", "bo"], "user:password"),
        (["--auth", "ada:1", "--rater", "ada:2"], "each name only once"),
        (["generate", "--strength", "half"], "--strength"),
    ],
)
def test_a_bad_command_line_is_refused_in_one_sentence(arguments, words):
    done = start(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_flags_that_artists_know_from_elsewhere_are_ignored_with_a_note():
    done = start("--xformers", "--opt-sdp-attention", "--skip-torch-cuda-test", "--exit")
    assert done.returncode == 0
    assert done.stderr.count("is not needed here and is ignored") == 3


def test_the_page_is_the_default_command_and_takes_the_common_flags(tmp_path):
    args = launch.parse(
        ["--port", "8000", "--listen", "--gradio-auth", "ada:a:b", "--data-dir", str(tmp_path)]
    )
    assert launch.settings_from(args) == Settings(
        data_dir=tmp_path, host="0.0.0.0", port=8000, auth=("ada", "a:b")
    )


@pytest.mark.parametrize(
    "command",
    ["ui", "generate", "votes", "finetune", "train all", "test", "bench", "doctor"],
)
def test_every_command_takes_the_folders_before_or_after_its_name(command, tmp_path):
    folders = ["--data-dir", str(tmp_path / "a"), "--models-dir", str(tmp_path / "b"), "--use-cpu"]
    words = command.split()
    expected = Settings(data_dir=tmp_path / "a", models_dir=tmp_path / "b", device="cpu")
    assert launch.settings_from(launch.parse([*words, *folders])) == expected
    assert launch.settings_from(launch.parse([*folders, "--loglevel", "info", *words])) == expected


def test_raters_are_named_beside_the_artist():
    args = launch.parse(["--auth", "ada:1", "--rater", "bo:2", "--rater", "cy:3:4"])
    assert launch.settings_from(args) == Settings(
        auth=("ada", "1"), raters=(("bo", "2"), ("cy", "3:4"))
    )


@pytest.mark.parametrize("flag", ["--database", "--database-url"])
def test_a_database_server_is_named_by_its_url(flag):
    url = "postgresql+psycopg://ada@localhost/easel"
    assert launch.settings_from(launch.parse(["votes", flag, url])) == Settings(database_url=url)


def test_generate_takes_a_picture_a_mask_and_an_adapter():
    words = "--init-image a.png --strength 0.6 --mask m.png --adapter a.st --adapter-strength 0.5"
    args = launch.parse(["generate", *words.split()])
    assert (args.init_image, args.strength, args.mask, args.adapter, args.adapter_strength) == (
        "a.png", 0.6, "m.png", "a.st", 0.5,
    )  # fmt: skip
    assert launch.parse(["generate"]).init_image is None


@pytest.mark.parametrize("command", ["votes", "finetune"])
def test_a_part_of_easel_that_is_not_here_is_named(command):
    program = (
        f"import launch, sys; sys.modules['studio.services.{command}_command'] = None\n"
        f"sys.exit(launch.run_command(launch.parse(['{command}'])))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"The module studio.services.{command}_command is not here. "
        "Update Easel, or leave --skip-install out.\n"
    )


def test_paths_are_absolute_before_the_page_changes_its_folder():
    args = launch.parse(["generate", "--output", "out", "--json-request", "r.json"])
    assert (args.output, args.json_request) == (Path.cwd() / "out", Path.cwd() / "r.json")


def test_every_stage_of_the_recipe_can_be_started():
    for stage in (*STAGES, "all"):
        assert launch.parse(["train", stage]).stage == stage


def test_what_a_stage_or_pytest_takes_is_passed_through_in_order():
    assert launch.parse(["train", "unet", "--steps", "10", "--fast"]).rest == [
        "--steps", "10", "--fast",
    ]  # fmt: skip
    assert launch.parse(["test", "-k", "a and b", "-x", "tests/core"]).rest == [
        "-k", "a and b", "-x", "tests/core",
    ]  # fmt: skip
    assert launch.parse(["votes", "export", "--loglevel", "INFO", "--help"]).rest == [
        "export", "--help",
    ]  # fmt: skip
    assert launch.parse(["finetune", "--kl", "0.1", "apple"]).rest == ["--kl", "0.1", "apple"]


# One owner ------------------------------------------------------------------------------------


def test_a_second_studio_says_where_the_first_one_is(tmp_path):
    with own_studio(tmp_path) as announce:
        announce("http://127.0.0.1:7899")
        done = start("ui", "--skip-install", "--data-dir", tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "already running" in done.stderr
    assert "http://127.0.0.1:7899" in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_studio_cleanly(tmp_path, ending):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, str(ROOT / "launch.py"), "--skip-install", "--port", str(port)]
        studio = subprocess.Popen(
            [*command, "--data-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = studio.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            assert url != f"http://127.0.0.1:{port}"
            assert owner_of(tmp_path).url == url
            assert list((tmp_path / "run").iterdir()) == []
            assert (tmp_path / "gradio").stat().st_mode & 0o777 == 0o700
            studio.send_signal(ending)
            _, errors = studio.communicate(timeout=60)
        finally:
            studio.kill()
            studio.wait()
    assert studio.returncode == 0
    assert errors.startswith(f"Port {port} is taken; Easel uses ")
    assert len(errors.splitlines()) == 1
    assert owner_of(tmp_path) is None
    assert find_database_fault(tmp_path / "easel.sqlite3") == ""


def test_a_killed_studio_leaves_its_folder_to_the_next(tmp_path):
    program = (
        "import pathlib, time; from studio.services.ownership import own_studio\n"
        f"with own_studio(pathlib.Path({str(tmp_path)!r})) as announce:\n"
        "    announce('http://127.0.0.1:1'); print('owned', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"owned\n"
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    with own_studio(tmp_path) as announce:
        announce("http://127.0.0.1:2")


def test_a_command_waits_for_the_device_and_says_for_whom(tmp_path):
    lock = device_lock(tmp_path)
    assert lock.acquire("generate")
    command = [sys.executable, str(ROOT / "launch.py"), "generate", "--skip-install"]
    waiting = subprocess.Popen(
        [*command, "--width", "7", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = waiting.stderr.readline()
        assert f"'generate' (process {os.getpid()}) is at work" in said
        assert waiting.poll() is None
        lock.release()
        output, errors = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        lock.release()
    assert (waiting.returncode, output) == (2, "")
    assert "width" in errors
