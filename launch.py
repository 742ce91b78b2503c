"""Easel's one command: makes its environment, then draws, trains, tests, measures or explains.

    python launch.py [ui | generate | votes | finetune | train | test | bench | doctor] [--help]

Standard library only. Outside `.venv` it makes `.venv` and starts itself again inside; inside it
installs what the command needs, which takes milliseconds when nothing changed, and runs it.
Exit codes: 0 done, 1 failed, 2 refused, 3 a studio already owns the data folder, 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections import deque
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "easel-installed.json"  # what was installed from which requirements
OLDEST_PYTHON = (3, 11)
RUNTIME = "requirements.txt"
TRAINING = "studio/training/requirements.txt"
TESTS = "tests/requirements.txt"
EXTRA_REQUIREMENTS = MappingProxyType(
    {"train": (TRAINING,), "test": (TRAINING, TESTS), "bench": (TRAINING, TESTS)}
)
PASSED_ON = ("train", "votes", "finetune", "test")  # flags unknown here go on to the command
DEFAULTS = MappingProxyType(
    {"data_dir": None, "models_dir": None, "database_url": "", "device": "", "use_cpu": None,
     "torch_index": "", "skip_install": False, "exit": False, "loglevel": "WARNING", "ignored": [],
     "port": 7860, "listen": "127.0.0.1", "auth": None, "raters": [], "autolaunch": False,
     "share": False, "output": None, "json_request": None}
)  # fmt: skip
PIPED = MappingProxyType({"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True})
run_piped = partial(subprocess.run, **PIPED, check=False)


class LaunchError(Exception):
    """The environment cannot be made or used; the message is a sentence with the fix."""


def say(sentence: str) -> None:
    """Tell the artist; on standard error, because `generate` keeps standard output for JSON."""
    print(sentence, file=sys.stderr, flush=True)


# The command line -----------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one sentence, with exit code 2."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> None:
        """Say what is wrong and where the flags are explained."""
        sentence = message[:1].upper() + message[1:].rstrip(".")
        self.exit(2, f"{sentence}. All flags are explained by: python launch.py --help\n")


def common_flags() -> Parser:
    """Return the flags that every command takes."""
    flags = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    add = flags.add_argument
    add("--data-dir", metavar="DIR", help="where pictures and the database live")
    add("--models-dir", metavar="DIR", help="where your own diffusers model folders are")
    url = "a PostgreSQL database instead of the SQLite file"
    add("--database", "--database-url", dest="database_url", metavar="URL", help=url)
    add("--device", metavar="NAME", type=_device, help="cpu, cuda, cuda:1 or mps; default: choose")
    add("--use-cpu", nargs="*", metavar="all", help="the same as --device cpu")
    add("--torch-index", metavar="URL", help="package index with the PyTorch build for your GPU")
    add("--skip-install", action="store_true", help="start without looking at the packages")
    add("--exit", action="store_true", help="make the environment, then stop")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    add("--loglevel", type=str.upper, choices=levels, help="how much of the log is shown")
    for flag in ("--xformers", "--opt-sdp-attention", "--skip-torch-cuda-test"):
        add(flag, action="append_const", const=flag, dest="ignored", help="accepted and ignored")
    return flags


def page_flags() -> Parser:
    """Return the flags of the page."""
    flags = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    add = flags.add_argument
    add("--port", type=int, help="7860 unless given; if taken, the next free one")
    words = "let other machines of your network in; needs --auth"
    add("--listen", nargs="?", const="0.0.0.0", metavar="ADDRESS", help=words)
    login = {"metavar": "NAME:PASSWORD", "type": _login}
    add("--auth", "--gradio-auth", **login, help="the artist's, for --listen")
    add("--rater", action="append", dest="raters", **login, help="of one who only rates; repeat it")
    add("--autolaunch", action="store_true", help="open the browser")
    add("--share", action="store_true", help=argparse.SUPPRESS)
    return flags


def make_parser() -> Parser:
    """Return the parser of the whole command line; without a command it is `ui`."""
    common, page = common_flags(), page_flags()
    parser = Parser(
        prog="launch.py", description="Easel, a local diffusion studio.", parents=[common, page]
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    commands.add_parser("ui", help="the page in the browser (default)", parents=[common, page])
    generate = commands.add_parser("generate", help="draw without the page", parents=[common])
    for flag, kind, words in (
        ("prompt", str, "what to draw"),
        ("negative", str, "what to steer away from"),
        ("width", int, "pixels, a multiple of 8"),
        ("height", int, "pixels, a multiple of 8"),
        ("steps", int, "denoising steps"),
        ("guidance", float, "how closely to follow the prompt"),
        ("sampler", str, "DDIM, Euler, ..."),
        ("eta", float, "DDIM's randomness, 0 to 1"),
        ("seed", int, "of the first picture"),
        ("count", int, "pictures"),
        ("model", str, "name of a model"),
        ("init-image", str, "picture file to start from"),
        ("strength", float, "how far to leave that picture, 0 to 1"),
        ("mask", str, "picture file, white where to paint anew"),
        ("adapter", str, "file of a fine-tuned adapter"),
        ("adapter-strength", float, "0 is without it, 1 is full"),
        ("output", str, "folder for the pictures"),
        ("json-request", str, "file with a request in JSON"),
    ):
        generate.add_argument(f"--{flag}", type=kind, metavar=flag.upper(), help=words)
    for name, words in (("votes", "what people preferred"), ("finetune", "learn from the votes")):
        commands.add_parser(name, help=words, parents=[common], add_help=False)
    train = commands.add_parser("train", help="the training recipe", parents=[common])
    stages = ("corpus", "autoencoder", "clip", "unet", "starter", "card", "all", "judge", "lora")
    words = "which stage, or lora for your own style; further flags go to it"
    train.add_argument("stage", choices=stages, help=words)
    commands.add_parser("test", help="run the tests; takes pytest's flags", parents=[common])
    bench = commands.add_parser("bench", help="measure speed and quality", parents=[common])
    bench.add_argument("names", nargs="*", help="benchmarks to run; all unless given")
    doctor = commands.add_parser("doctor", help="what is wrong, how to mend it", parents=[common])
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; refuses with exit code 2. `rest` holds the flags to pass on."""
    parser = make_parser()
    args, args.rest = parser.parse_known_args(argv, argparse.Namespace(**DEFAULTS))
    args.command = args.command or "ui"
    if args.use_cpu is not None:
        args.device = "cpu"
    for name in ("data_dir", "models_dir", "output", "json_request"):
        value = getattr(args, name)
        if value not in (None, "-"):  # the page changes into another folder later
            setattr(args, name, Path(value).expanduser().resolve())
    if args.rest and args.command not in PASSED_ON:
        parser.error(f"`{args.command}` does not know {' '.join(args.rest)}")
    if args.share:
        parser.error("--share is refused: no tunnels. In your network, use --listen with --auth")
    if args.listen not in ("127.0.0.1", "localhost", "::1") and args.auth is None:
        parser.error("--listen lets other machines in; give a password: --auth user:password")
    names = [name for name, _ in (args.auth or ("", ""), *args.raters)]
    if args.raters and (args.auth is None or len(set(names)) < len(names)):
        parser.error("--rater needs --auth user:password beside it, and each name only once")
    if not 0 <= args.port <= 65535:
        parser.error(f"There is no port {args.port}; choose 1024 to 65535")
    return args


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"there is no device '{text}'; use cpu, cuda or mps")
    return text


def _login(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user or not password:
        raise argparse.ArgumentTypeError("write it as user:password, both not empty")
    return user, password


# The environment ------------------------------------------------------------------------------


def studio_environment(present: dict[str, str] | os._Environ[str]) -> dict[str, str]:
    """Return the variables that keep every library offline, quiet and without remote code."""
    local = ["127.0.0.1", "localhost"]
    proxies = [p for p in present.get("NO_PROXY", "").split(",") if p and p not in local]
    return {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
        "NO_PROXY": ",".join([*proxies, *local]),
        "PYTHONNOUSERSITE": "1",
    }


def set_environment() -> None:
    """Set the variables; whatever else would steer Gradio from outside is taken away."""
    for name in [n for n in os.environ if n.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(studio_environment(os.environ))


def inside_venv() -> bool:
    """True in the process that runs on `.venv`'s own Python."""
    return VENV.is_dir() and Path(sys.prefix).resolve() == VENV.resolve()


def venv_python() -> Path:
    """Return the Python of `.venv`."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv() -> None:
    """Make `.venv`, unless a working one is there."""
    if os.access(venv_python(), os.X_OK):
        return
    if VENV.exists() and not (VENV / "pyvenv.cfg").is_file():
        raise LaunchError(f"{VENV} is not a Python environment; please move it away.")
    say(f"Making the Python environment in {VENV} ...")
    make = [sys.executable, "-m", "venv", "--clear"]
    made = run_piped([*make, str(VENV)])
    if made.returncode == 0:
        return
    # Debian ships pip without ensurepip: make the environment bare, then let that pip fill it.
    bare = run_piped([*make, "--without-pip", str(VENV)])
    fill = [sys.executable, "-m", "pip", "--python", str(venv_python()), "install", "pip"]
    filled = run_piped(fill) if bare.returncode == 0 else bare
    if filled.returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    raise LaunchError(explain(made.stdout + bare.stdout + filled.stdout))


# The packages ---------------------------------------------------------------------------------


def installed_entries() -> set[str]:
    """Return the names of all files and folders at the top of site-packages."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    names = {path.name for folder in folders for path in Path(folder).iterdir()}
    return {n for n in names if not n.startswith("~") and n != "__pycache__"}


def fingerprint(name: str) -> str:
    """Return the hash of one requirements file and of this Python's version."""
    content = (ROOT / name).read_bytes()
    return hashlib.sha256(content + repr(sys.version_info[:3]).encode()).hexdigest()


def read_stamp() -> dict:
    """Return what the last installation wrote down; empty when it is missing or damaged."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        return {"sets": dict(stamp["sets"]), "torch_index": str(stamp["torch_index"]),
                "entries": list(stamp["entries"])}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return {"sets": {}, "torch_index": "", "entries": []}


def install(names: tuple[str, ...], torch_index: str) -> None:
    """Install the requirements files, unless they are the ones installed and nothing is gone."""
    stamp = read_stamp()
    wanted = {name: fingerprint(name) for name in names}
    gone = set(stamp["entries"]) - installed_entries()
    new_index = bool(torch_index) and torch_index != stamp["torch_index"]
    if wanted.items() <= stamp["sets"].items() and not gone and not new_index:
        return
    say("Installing the packages (the first time takes some minutes) ...")
    torch_index = torch_index or stamp["torch_index"]
    index = ["--extra-index-url", torch_index] if torch_index else []
    torch = re.findall(r"^torch==\S+", (ROOT / RUNTIME).read_text(encoding="utf-8"), re.MULTILINE)
    if new_index and torch:  # pip would take the build that is there for good enough
        pip_install([*index, "--force-reinstall", "--no-deps", *torch])
    if emptied := emptied_packages(gone):
        pip_install([*index, "--force-reinstall", "--no-deps", *emptied])
    # A set installed before is installed again with the new one, so that its pins hold.
    files = sorted({RUNTIME, *names, *(n for n in stamp["sets"] if (ROOT / n).is_file())})
    pip_install([*index, *(part for name in files for part in ("-r", str(ROOT / name)))])
    sets = {name: fingerprint(name) for name in files}
    written = {"sets": sets, "torch_index": torch_index, "entries": sorted(installed_entries())}
    STAMP.write_text(json.dumps(written, indent=1), encoding="utf-8")


def emptied_packages(gone: set[str]) -> list[str]:
    """Return `name==version` of packages that pip takes for installed though their files are gone.

    `gone` are names at the top of site-packages; each package's RECORD tells which are its own.
    """
    emptied = []
    for record in Path(sysconfig.get_path("purelib")).glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
        if gone & {re.split("[/,]", line)[0] for line in lines}:
            name, _, version = record.parent.name.removesuffix(".dist-info").partition("-")
            emptied.append(f"{name}=={version}")
    return sorted(emptied)


def pip_install(arguments: list[str]) -> None:
    """Run `pip install`, showing what it is at; its failure becomes a sentence."""
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--prefer-binary"]
    command.append("--disable-pip-version-check")
    tail: deque[str] = deque(maxlen=30)
    with subprocess.Popen([*command, *arguments], **PIPED, errors="replace") as pip:
        try:
            for line in pip.stdout or ():
                tail.append(line.rstrip())
                if line.lstrip().startswith(("Collecting", "Downloading", "Installing")):
                    say("  " + line.strip()[:120])
        except KeyboardInterrupt:
            pip.terminate()
            raise
    if pip.returncode != 0:
        raise LaunchError(explain("\n".join(tail)))


def explain(output: str) -> str:
    """Turn what venv or pip said when it failed into a sentence with the fix; its lines follow."""
    causes = (
        ("No space left|Errno 28", f"The disk that holds {ROOT} is full; free about 6 GB and "),
        ("Permission denied|Read-only file system",
         f"{VENV} cannot be written to; move Easel to a folder of your own and "),
        ("No module named .?(venv|pip)",
         "This Python has no pip to install with; on Debian and Ubuntu run 'apt install "
         "python3-venv', then delete .venv and "),
        ("name resolution|NewConnectionError|Network is unreachable|Connect(ion)?Timeout|"
         "Connection (refused|aborted)|ProxyError|getaddrinfo failed|Max retries",
         "The packages could not be fetched because no package index answers; connect this "
         "machine to the network once (or set pip's proxy) and "),
        ("No matching distribution",
         "A package has no version for this Python and machine, or no package index was "
         "reached. Check the network; else delete .venv, take Python 3.11 and "),
    )  # fmt: skip
    known = (words + "start again." for signs, words in causes if re.search(signs, output))
    cause = next(known, "The packages could not be installed; the last lines say why.")
    return f"{cause}\nThe last lines were:\n{output.strip()[-2000:]}"


# The commands, inside the environment ---------------------------------------------------------


def run_ui(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM."""
    from studio.ui.start import start

    return start(settings_from(args), say)


def run_generate(args: argparse.Namespace) -> int:
    """Draw from the command line; waits while another process uses the device."""
    from studio.services.command_line import generate
    from studio.services.ownership import hold_device

    settings = settings_from(args)
    with hold_device(settings.data_dir, "generate", say):
        return generate(args, settings)


def run_votes(args: argparse.Namespace) -> int:
    """Count, import, export or study the votes; the rest of the line says which."""
    from studio.services.votes_command import votes

    return votes(args.rest, settings_from(args))


def run_finetune(args: argparse.Namespace) -> int:
    """Learn a reward from the votes and fine-tune a model with it; the rest says how."""
    from studio.services.finetune_command import finetune

    return finetune(args.rest, settings_from(args))


def run_train(args: argparse.Namespace) -> int:
    """Run a stage of the training recipe, or teach a style; waits for another training."""
    from studio.services.train_command import train

    return train(args, settings_from(args), say)


def run_doctor(args: argparse.Namespace) -> int:
    """Print what is wrong and how to mend it; 0 when all is well."""
    from studio.services import doctor

    findings = doctor.examine(settings_from(args))
    print(doctor.as_json(findings) if args.json else doctor.as_text(findings))
    return int(any(finding.wrong for finding in findings))


def run_test(args: argparse.Namespace) -> int:
    """Run pytest with the arguments that were left over, a process for each core."""
    from tests.debian import install_missing
    from tests.processes import spread

    install_missing(say)
    (args.data_dir or ROOT).mkdir(parents=True, exist_ok=True)
    folder = [f"--basetemp={args.data_dir / 'tests'}"] if args.data_dir else []
    os.chdir(ROOT)
    return hand_over([sys.executable, "-m", "pytest", *folder, *spread(args.rest)])


def run_bench(args: argparse.Namespace) -> int:
    """Run the benchmarks and write their records below the data folder."""
    from tests.benchmarks.runner import run

    return run(args.names, settings_from(args).data_dir / "bench")


COMMANDS = (
    run_ui, run_generate, run_votes, run_finetune, run_train, run_doctor, run_test, run_bench
)  # fmt: skip


def settings_from(args: argparse.Namespace):  # noqa: ANN201 (studio is not imported yet)
    """Turn the flags into `studio.core.settings.Settings`."""
    from studio.core.settings import Settings

    given = {field.name: getattr(args, field.name, None) for field in fields(Settings)}
    given |= {"host": args.listen, "raters": tuple(args.raters)}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def run_command(args: argparse.Namespace) -> int:
    """Run the command; a refusal or failure becomes its sentence and its exit code."""
    from studio.core.errors import EaselError, InvalidRequestError, StudioRunningError

    logging.basicConfig(level=args.loglevel, format="%(levelname)s %(name)s: %(message)s")
    try:
        return next(run for run in COMMANDS if run.__name__ == f"run_{args.command}")(args)
    except EaselError as error:
        say(str(error))
        code = 3 if isinstance(error, StudioRunningError) else 1
        return 2 if isinstance(error, InvalidRequestError) else code
    except ModuleNotFoundError as error:
        say(f"The module {error.name} is not here. Update Easel, or leave --skip-install out.")
        return 1


# The way in -----------------------------------------------------------------------------------


def hand_over(command: list[str]) -> int:
    """Become `command` (Windows has no exec, so there it runs below this process)."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    child = subprocess.Popen(command)
    while child.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):  # the child got it too and is ending
            child.wait()
    return child.returncode


def main(argv: list[str]) -> int:
    """Refuse, prepare and run; every failure is a sentence on standard error."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        say(f"Easel needs Python 3.11 or newer, and this is {found}; take 'python3.11 launch.py'.")
        return 1
    args = parse(argv)
    for name in ("SIGTERM", "SIGHUP"):  # end as on Ctrl-C: finished pictures kept, locks released
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        set_environment()
        own_python = args.skip_install and not venv_python().exists()
        if not inside_venv() and not own_python:
            make_venv()
            return hand_over([str(venv_python()), str(ROOT / "launch.py"), *argv])
        for flag in args.ignored:
            say(f"{flag} is not needed here and is ignored.")
        if not args.skip_install:
            install((RUNTIME, *EXTRA_REQUIREMENTS.get(args.command, ())), args.torch_index)
        return 0 if args.exit else run_command(args)
    except LaunchError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
