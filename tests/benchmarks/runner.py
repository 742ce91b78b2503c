"""Runs the benchmarks, prints a table and writes one record file a run.

A benchmark is a module beside this one whose `main()` returns records: dicts with `metric`, `value`
and `unit`, and where they apply `ratio_to`, `ci` and `n`. Each runs in a process of its own, so
that neither memory nor thread counts leak into the next. This runner adds what tells how far to
trust a figure: the machine's matrix-multiplication rate before and after, threads, load, pressure.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NO_BENCHMARKS = frozenset({"runner", "measure", "ablation", "hidden_rater", "__init__"})
FIELDS = ("metric", "value", "unit", "ratio_to", "ci", "n")
PROBE = "import json; from tests.benchmarks.measure import probe; print(json.dumps(probe()))"
STEADY = 0.10  # a run whose probes differ by more is not to be trusted


def names() -> list[str]:
    """Return the benchmarks that there are."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NO_BENCHMARKS)


def run(wanted: list[str], folder: Path, known: list[str] | None = None) -> int:
    """Run the wanted benchmarks (all when none is named); 0 when each gave its records.

    Writes `folder`/<time>.json: {started, machine, records}. Exit code 2 for an unknown name.
    """
    known = names() if known is None else known
    wanted = [name.replace("-", "_") for name in wanted]  # as files are called
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.stderr.write(
            f"There is no benchmark {', '.join(unknown)}; there are {', '.join(known)}.\n"
        )
        return 2
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    records, failed = [], []
    os.environ["EASEL_DATA_DIR"] = str(folder.parent)  # for those that need what is there
    for name in wanted or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = measure(name)
        records += found
        failed += [] if found else [name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{started}-{os.getpid()}.json"
    content = {"started": started, "machine": machine(), "records": records}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    print(as_table(records))
    print(f"\n{len(records)} figures in {path}")
    if failed:
        print(f"No figures from {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def measure(name: str) -> list[dict]:
    """Return one benchmark's records with the state of the machine; empty when it fails."""
    program = (
        f"import json; from tests.benchmarks.{name} import main; print(); print(json.dumps(main()))"
    )
    before, load, pressure = _python(PROBE), _load(), _pressure()
    found = _python(program)
    after = _python(PROBE)
    if not found or before is None or after is None:
        return []
    state = {
        "benchmark": name,
        "probe_before": before,
        "probe_after": after,
        "steady": all(abs(after[k] / before[k] - 1) <= STEADY for k in before),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
        "load1": load,
        "psi": pressure,
    }
    return [{**dict.fromkeys(FIELDS), **record, **state} for record in found]


def machine() -> dict:
    """Return what the figures depend on."""
    ask = ["git", "rev-parse", "HEAD"]
    commit = ""  # a copy without git has none
    if shutil.which("git"):
        commit = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    packages = ("torch", "diffusers", "transformers", "gradio", "sqlalchemy")
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "commit": commit,
        "packages": {name: version(name) for name in packages},
    }


def as_table(records: list[dict]) -> str:
    """Return the records as aligned columns; a figure from an unsteady machine is marked."""
    head = ("metric", "value", "unit", "n", "against", "ratio", "interval", "")
    rows = [head]
    for record in records:
        ratio, interval = record.get("ratio"), record["ci"]
        rows.append(
            (
                str(record["metric"]),
                f"{record['value']:.4g}",
                str(record["unit"]),
                "" if record["n"] is None else str(record["n"]),
                str(record["ratio_to"] or ""),
                "" if ratio is None else f"{ratio:.3g}",
                "" if not interval else f"{interval[0]:.3g} to {interval[1]:.3g}",
                "" if record["steady"] else "unsteady",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _python(program: str) -> object:
    """Run a program that prints JSON as its last line; None, and its errors, when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _pressure() -> float | None:
    """Percent of the last ten seconds in which something waited for a core; Linux only."""
    try:
        words = Path("/proc/pressure/cpu").read_text(encoding="ascii").split()
    except OSError:
        return None
    return float(next(word for word in words if word.startswith("avg10=")).removeprefix("avg10="))
