"""The rules of the house as functions over source code: each returns its violations as sentences.

`test_layers.py` applies them to the studio, and to a small offender each, so that a rule that has
gone blind is noticed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]
LAYERS = MappingProxyType(
    {
        "core": frozenset({"core"}),
        "diffusion": frozenset({"core", "diffusion"}),
        "training": frozenset({"core", "diffusion", "training"}),
        "store": frozenset({"core", "store"}),
        "services": frozenset({"core", "diffusion", "training", "store", "services"}),
        "ui": frozenset({"core", "services", "ui"}),
        "launch": frozenset({"core", "training", "services", "ui"}),
    }
)
TORCH = frozenset({"torch", "diffusers", "transformers", "peft", "accelerate"})
PAGE = frozenset({"gradio", "gradio_client", "fastapi", "starlette", "uvicorn"})
SQL = frozenset({"sqlalchemy", "alembic", "sqlite3"})
MUTABLE_CALLS = frozenset(
    {"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque"}
    | {"Lock", "RLock", "Event", "Condition", "Semaphore", "Queue", "SimpleQueue", "local"}
    | {"ContextVar", "SimpleNamespace"}
)
MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
SYMBOLS = frozenset({"abar", "eps", "eps~", "x_0", "x_t", "sigma"})  # may begin a sentence
MANY_PARAMETERS = frozenset(  # a typed API: one parameter for each field
    f"studio.ui.endpoint.{name}" for name in ("txt2img", "img2img", "inpaint")
)
FILE_LINES, FUNCTION_LINES, PARAMETERS = 500, 60, 7


@dataclass(frozen=True)
class Source:
    """One module: its dotted name and its syntax tree."""

    name: str
    tree: ast.Module
    lines: int

    @property
    def layer(self) -> str:
        parts = self.name.split(".")
        return parts[1] if parts[0] == "studio" and len(parts) > 1 else parts[0]


def parse_source(name: str, text: str) -> Source:
    return Source(name, ast.parse(text), len(text.splitlines()))


def studio_sources() -> list[Source]:
    """Return launch.py and every module below studio/."""
    paths = [ROOT / "launch.py", *sorted((ROOT / "studio").rglob("*.py"))]
    return [parse_source(_dotted(path), path.read_text(encoding="utf-8")) for path in paths]


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: Source) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every import, also those hidden inside functions."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (f"{source.name}.(relative)", node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
            "import_module",
        ):
            name = node.args[0] if node.args else None
            constant = isinstance(name, ast.Constant) and isinstance(name.value, str)
            yield (name.value if constant else f"{source.name}.(computed)", node.lineno)


def layer_violations(source: Source) -> list[str]:
    """An import may only point left, and each heavy library has its layers."""
    found = []
    for name, line in imports(source):
        where = f"{source.name}:{line} imports {name}"
        top, _, rest = name.partition(".")
        if name.endswith((".(relative)", ".(computed)")):
            found.append(f"{where}, which nobody can follow")
        elif top == "studio" and rest and source.layer in LAYERS:
            if rest.split(".")[0] not in LAYERS[source.layer]:
                found.append(f"{where}, which lies to the right of {source.layer}")
        elif not _may_use(source, top):
            found.append(f"{where}, which is not for {source.layer}")
    return found


def _may_use(source: Source, library: str) -> bool:
    if source.layer in ("core", "launch"):
        allowed = sys.stdlib_module_names | ({"pydantic"} if source.layer == "core" else {"tests"})
        return library in allowed and library not in SQL
    if library in TORCH:
        return source.layer in ("diffusion", "training") or source.name == "studio.services.models"
    if library in PAGE:
        return source.layer == "ui"
    if library in SQL:
        return source.layer == "store"
    return library != "tests"


def import_cycles(sources: list[Source]) -> list[str]:
    """Return each module that reaches itself through imports, with the way."""
    names = {source.name for source in sources}
    graph = {source.name: sorted(_targets(source, names)) for source in sources}
    return [" -> ".join(way) for name in graph if (way := _way(graph, name, name))]


def _targets(source: Source, names: set[str]) -> set[str]:
    found = set()
    for name, _ in imports(source):
        parent = name.rpartition(".")[0]
        target = name if name in names else parent
        if target in names and target != source.name:
            found.add(target)
    return found


def _way(graph: dict[str, list[str]], start: str, end: str) -> list[str]:
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop()
        for following in graph[way[-1]]:
            if following == end:
                return [*way, end]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return []


def state_violations(source: Source) -> list[str]:
    """No `global`, and nothing mutable at the level of a module or a class."""
    found = [
        f"{source.name}:{node.lineno} uses global {', '.join(node.names)}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Global)
    ]
    for node in _shared_statements(source.tree.body):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            continue  # the language's own list of names
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and _is_mutable(value):
            found.append(f"{source.name}:{node.lineno} keeps mutable state: {ast.unparse(node)}")
    return found


def _shared_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run once, at import: not those inside functions."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from _shared_statements(getattr(node, name, []))


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in MUTABLE_CALLS
    return isinstance(value, MUTABLE_DISPLAYS)


def limit_violations(source: Source) -> list[str]:
    """No file over 500 lines, no function over 60, no more than 7 parameters."""
    found = []
    if source.lines > FILE_LINES:
        found.append(f"{source.name} has {source.lines} lines; {FILE_LINES} is the limit")
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        where = f"{source.name}:{node.lineno} {node.name}"
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES:
            found.append(f"{where} has {lines} lines; {FUNCTION_LINES} is the limit")
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > PARAMETERS and f"{source.name}.{node.name}" not in MANY_PARAMETERS:
            found.append(f"{where} takes {count} parameters; {PARAMETERS} is the limit")
    return found


def caught_too_widely(source: Source) -> list[str]:
    """`except Exception` (or wider) stands in the worker and nowhere else."""
    if source.name == "studio.services.worker":
        return []
    return [
        f"{source.name}:{node.lineno} catches everything"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & _names(node.type))
    ]


def _names(node: ast.expr) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def docstring_violations(source: Source) -> list[str]:
    """Every public module, class, function and method has a docstring that begins a sentence."""
    found = _check_docstring(source.tree, source.name)
    for name, node in _public(source.tree.body, source.name):
        found += _check_docstring(node, name)
    return found


def _public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        yield f"{prefix}.{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from _public(node.body, f"{prefix}.{node.name}")


def _check_docstring(node: ast.AST, name: str) -> list[str]:
    text = (ast.get_docstring(node) or "").strip()
    if not text:
        return [f"{name} has no docstring"]
    first = " ".join(text.split("\n\n")[0].split())
    symbol = "=" in first or first.split()[0] in SYMBOLS
    if not symbol and not first[0].isupper() and first[0] not in "`'_0123456789":
        return [f"{name}: its docstring begins without a capital: {first[:60]}"]
    if not any(mark in first for mark in ".:?"):
        return [f"{name}: its docstring begins with no sentence: {first[:60]}"]
    return []
