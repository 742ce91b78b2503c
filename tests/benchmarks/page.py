"""How soon the page can be used, against an empty Gradio app started in the same way.

    python tests/benchmarks/page.py

Wall clock from the start of the process to the first whole answer of `GET /`, the two in turn; the
minimum of three starts each. Goal: at most 1.5 times the empty app plus one second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTS = 3
PATIENCE = 120  # seconds
EMPTY = """
import os
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio as gr
with gr.Blocks(analytics_enabled=False) as demo:
    gr.Markdown("empty")
_, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
print(url, flush=True)
demo.block_thread()
"""


def main() -> list[dict]:
    """Return the seconds until each page answers: {metric, value, unit, ratio_to, n} each."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["ui", "--skip-install", "--port", "0", "--data-dir", folder]
        studio = [sys.executable, str(ROOT / "launch.py"), *flags]
        empty = [sys.executable, "-c", EMPTY]
        pairs = [(usable_after(studio), usable_after(empty)) for _ in range(STARTS)]
    ours, theirs = (min(side) for side in zip(*pairs, strict=True))
    common = {"unit": "s", "n": STARTS}
    return [
        {"metric": "empty Gradio app usable", "value": theirs, **common},
        {
            "metric": "studio usable",
            "value": ours,
            "ratio": ours / theirs,
            "ratio_to": f"empty app; goal {1.5 * theirs + 1:.2f} s",
            **common,
        },
    ]


def usable_after(command: list[str]) -> float:
    """Start a server that prints its address; return the seconds until its page was read whole."""
    begin = time.perf_counter()
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_PROXY": "127.0.0.1"}
    )
    try:
        url = server.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            answer.read()
        return time.perf_counter() - begin
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE)
        server.stdout.close()


if __name__ == "__main__":
    for row in main():
        sys.stdout.write(f"{row}\n")
