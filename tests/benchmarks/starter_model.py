"""How good the starter model is: recognised, placed, varied, how fast, in how much memory.

    python launch.py bench starter-model
    python -m tests.benchmarks.starter_model [--model DIR] [--corpus DIR] [--pictures N]

The figures are those of `studio/training/stages/evaluation.py`, which `train card` writes into a
model's card. Needs the corpus in the data folder. Standard error tells how far it is: the shipped
model draws 1,565 pictures beside the judge's bank, which takes 13 minutes of one core (measured
beside other work).
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
from studio.core.events import StageArtifact
from studio.core.settings import STARTER_MODEL, Settings
from studio.training.dataset.corpus import load
from studio.training.stages.command_line import as_line
from studio.training.stages.evaluation import FIGURES, EvaluationConfig, evaluate


def main(
    model: Path = STARTER_MODEL, corpus_folder: Path | None = None, count: int | None = None
) -> list[dict]:
    """Return the records; none, and why on standard error, when there is no corpus.

    Standard error tells how far it is.
    """
    data_dir = Path(os.environ.get("EASEL_DATA_DIR") or Settings().data_dir)
    config = EvaluationConfig()
    if count:
        config = replace(config, pictures=count, reconstructions=4 * count, subjects=1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _say("reading the corpus and the model")
            corpus = load(corpus_folder or data_dir / "training" / "corpus")
            for event in evaluate(corpus, model, config, Path(folder)):
                if not isinstance(event, StageArtifact):  # of a folder that will be gone
                    _say(as_line(event))
        except TrainingError as error:
            _say(str(error))
            return []
        return json.loads((Path(folder) / FIGURES).read_text(encoding="utf-8"))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=STARTER_MODEL)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--pictures", type=int)
    chosen = parser.parse_args()
    print(json.dumps(main(chosen.model, chosen.corpus, chosen.pictures), indent=1))
