"""The layers and the house limits hold, and each rule can see an offender."""

import subprocess
import sys

import pytest

from tests.source_rules import (
    ROOT,
    caught_too_widely,
    import_cycles,
    layer_violations,
    limit_violations,
    parse_source,
    state_violations,
    studio_sources,
)

SOURCES = tuple(studio_sources())


def offender(text: str, name: str = "studio.services.offender"):
    return parse_source(name, text)


def test_imports_point_left_and_heavy_libraries_stay_in_their_layers():
    assert [sentence for source in SOURCES for sentence in layer_violations(source)] == []


def test_no_module_reaches_itself_through_imports():
    assert import_cycles(list(SOURCES)) == []


def test_no_global_and_no_mutable_state_at_module_level():
    assert [sentence for source in SOURCES for sentence in state_violations(source)] == []


def test_files_functions_and_parameter_lists_stay_short():
    assert [sentence for source in SOURCES for sentence in limit_violations(source)] == []


def test_only_the_worker_catches_everything():
    assert [sentence for source in SOURCES for sentence in caught_too_widely(source)] == []


def test_ruff_finds_nothing_to_mend():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "All checks passed!\n")


def test_every_layer_was_looked_at():
    layers = {source.layer for source in SOURCES}
    assert layers >= {"core", "diffusion", "training", "store", "services", "ui", "launch"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("studio.core.offender", "import torch"),
        ("studio.core.offender", "from studio.store import files"),
        ("studio.diffusion.offender", "from studio.services.worker import GpuWorker"),
        ("studio.store.offender", "import diffusers"),
        ("studio.services.offender", "import gradio"),
        ("studio.services.offender", "def f():\n    import torch"),
        ("studio.services.offender", "import sqlite3"),
        ("studio.ui.offender", "from studio.store.pictures import PictureStore"),
        ("studio.ui.offender", "def f():\n    from studio.diffusion import model"),
        ("studio.ui.offender", "import importlib\nimportlib.import_module(name)"),
        ("studio.ui.offender", "from . import app"),
        ("launch", "import numpy"),
        ("launch", "from studio.store.lock import FileLock"),
    ],
)
def test_the_rule_of_layers_sees_an_import_that_points_right(name, text):
    assert len(layer_violations(offender(text, name))) == 1


def test_the_rule_of_cycles_sees_one_hidden_in_a_function():
    first = offender("def f():\n    from studio.core.b import x", "studio.core.a")
    second = offender("import studio.core.c", "studio.core.b")
    third = offender("from studio.core import a", "studio.core.c")
    assert import_cycles([first, second]) == []
    assert len(import_cycles([first, second, third])) == 3


@pytest.mark.parametrize(
    "text",
    [
        "cache = {}",
        "seen: list[int] = []",
        "lock = threading.Lock()",
        "if True:\n    queue = Queue()",
        "class Shelf:\n    models = []",
        "def f():\n    global count\n    count = 1",
    ],
)
def test_the_rule_of_state_sees_what_is_shared(text):
    assert len(state_violations(offender(text))) == 1


def test_the_rule_of_state_lets_constants_and_locals_be():
    text = "A = (1, 2)\nB = frozenset({1})\nC = MappingProxyType({1: 2})\ndef f():\n    d = []"
    assert state_violations(offender(text)) == []


def test_the_rule_of_limits_sees_long_and_wide_functions():
    long = "def f():\n" + "    pass\n" * 60
    wide = "def g(self, a, b, c, d, e, f, g, *, h): ..."
    assert len(limit_violations(offender(long + wide))) == 2
    assert len(limit_violations(offender("x = 1\n" * 501))) == 1


def test_the_rule_of_catching_sees_a_bare_except():
    text = (
        "try:\n    f()\nexcept (ValueError, Exception):\n    pass\ntry:\n    f()\nexcept:\n    pass"
    )
    assert len(caught_too_widely(offender(text))) == 2


def modules_after_importing(name: str) -> set[str]:
    program = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "name", ["studio.services.studio", "studio.store.pictures", "studio.ui.start"]
)
def test_what_the_page_needs_is_imported_without_torch(name):
    heavy = {"torch", "diffusers", "transformers", "gradio"}
    assert modules_after_importing(name) & heavy == set()


def test_core_imports_only_the_standard_library():
    names = {name.split(".")[0] for name in modules_after_importing("studio.core.request")}
    assert names - sys.stdlib_module_names - {"studio", "sitecustomize", "offline_guard"} <= {
        "__main__", "_virtualenv", "_distutils_hack",
    }  # fmt: skip
