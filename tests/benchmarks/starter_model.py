"""How good the starter model is: recognised, placed, varied, how fast, in how much memory.

    python launch.py bench starter-model
    python -m tests.benchmarks.starter_model [--model DIR] [--corpus DIR] [--pictures N]

The figures are those of `studio/training/stages/evaluation.py`, which `train card` writes into a
model's card. Needs the corpus in the data folder; with the shipped model it takes about ten
minutes of two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from studio.core.errors import TrainingError
from studio.core.settings import STARTER_MODEL, Settings
from studio.training.dataset.corpus import load
from studio.training.stages.evaluation import FIGURES, EvaluationConfig, evaluate


def main(
    model: Path = STARTER_MODEL, corpus_folder: Path | None = None, count: int | None = None
) -> list[dict]:
    """Return the records; none, and why on standard error, when there is no corpus."""
    data_dir = Path(os.environ.get("EASEL_DATA_DIR") or Settings().data_dir)
    config = EvaluationConfig()
    if count:
        config = replace(config, pictures=count, reconstructions=4 * count, subjects=1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            corpus = load(corpus_folder or data_dir / "training" / "corpus")
            for _ in evaluate(corpus, model, config, Path(folder)):
                pass
        except TrainingError as error:
            sys.stderr.write(f"{error}\n")
            return []
        return json.loads((Path(folder) / FIGURES).read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=STARTER_MODEL)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--pictures", type=int)
    chosen = parser.parse_args()
    print(json.dumps(main(chosen.model, chosen.corpus, chosen.pictures), indent=1))
