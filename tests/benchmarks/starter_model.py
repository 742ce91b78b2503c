"""How good the starter model is: recognised, placed, varied, how fast, in how much memory.

    python launch.py bench starter-model
    python -m tests.benchmarks.starter_model [--model DIR] [--corpus DIR] [--subjects N]

Every subject is drawn once in every style from one seed, uncurated. Beside each rate stands what
the real pictures of the same subjects reach, which is what a perfect model would. The corpus has no
held-out split yet, so distances are to the pictures that the model was trained on. Scenes are wide
pictures whose prompt says on which side the subject stands. Needs the corpus in the data folder;
with all 252 subjects it takes about ten minutes of two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from studio.core.errors import TrainingError
from studio.core.settings import STARTER_MODEL, Settings
from studio.training.corpus import load, starter_subjects
from studio.training.evaluate import frechet_distance, placement, precision_and_recall
from studio.training.judge import (
    Bank,
    JudgeConfig,
    build_bank,
    draw,
    features,
    hit_rates,
    load_network,
    rank,
)
from studio.training.sources import DRAWN_STYLES

SIDES = (("on the left", 0.0, 0.45), ("on the right", 0.55, 1.0))  # words, from, to
WIDE = (176, 96)
SCENES = 24  # subjects that are also drawn on either side


def main(
    model: Path = STARTER_MODEL, corpus_folder: Path | None = None, count: int | None = None
) -> list[dict]:
    """Return the records; none, and why on standard error, when there is no corpus."""
    data_dir = Path(os.environ.get("EASEL_DATA_DIR") or Settings().data_dir)
    try:
        corpus = load(corpus_folder or data_dir / "training" / "corpus")
        network = load_network()
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return []
    bank = build_bank(network, corpus)
    subjects = [s for s in starter_subjects() if s in set(bank.subjects)][:count]
    records: list[dict] = []
    for style in DRAWN_STYLES:
        begun = time.perf_counter()
        pictures = draw(model, [f"{s}, {style}" for s in subjects], JudgeConfig())
        seconds = (time.perf_counter() - begun) / len(pictures)
        found = features(network, pictures)
        records += recognised(found, bank, style, subjects)
        records += beside_real(found, bank, style, subjects)
        records.append(record(f"seconds a picture, {style}", seconds, "s", len(pictures)))
    records += scenes(model, subjects[:SCENES])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    records.append(record("peak memory", peak, "MB", None))
    return records


def recognised(found: Tensor, bank: Bank, style: str, subjects: Sequence[str]) -> list[dict]:
    """How many subjects are recognised by pictures of the other styles, and of the real ones."""
    others = bank.without_style(style)
    drawn = hit_rates([rank(f, s, others) for f, s in zip(found, subjects, strict=True)])
    real = [
        rank(bank.features[i], subject, others)
        for i, (subject, of) in enumerate(zip(bank.subjects, bank.styles, strict=True))
        if of == style and subject in set(subjects)
    ]
    best = hit_rates(real)
    return [
        record(f"{style}, {k.replace('_', ' ')}", drawn[k], "share", len(subjects))
        | {"ratio_to": f"real pictures, {best[k]:.2f}", "ratio": drawn[k] / max(best[k], 1e-9)}
        for k in ("first_1", "first_5")
    ]


def beside_real(found: Tensor, bank: Bank, style: str, subjects: Sequence[str]) -> list[dict]:
    """Distance, precision and recall of the drawn features against the real ones of the style."""
    wanted = set(subjects)
    rows = [
        i
        for i, (subject, of) in enumerate(zip(bank.subjects, bank.styles, strict=True))
        if of == style and subject in wanted
    ]
    real = bank.features[rows]
    precision, recall = precision_and_recall(found, real)
    nearest = 1 - (found @ real.T).max(dim=1).values.mean()
    return [
        record(f"{style}, Frechet distance", frechet_distance(found, real), "", len(found)),
        record(f"{style}, precision", precision, "share", len(found)),
        record(f"{style}, recall", recall, "share", len(real)),
        record(f"{style}, distance to the nearest real picture", float(nearest), "", len(found)),
    ]


def scenes(model: Path, subjects: Sequence[str]) -> list[dict]:
    """Is the subject on the side that was asked for, and neither lost nor all over the picture?"""
    records, style = [], DRAWN_STYLES[0]
    for words, low, high in SIDES:
        prompts = [f"{subject}, {style}, {words}" for subject in subjects]
        found = [placement(p) for p in draw(model, prompts, replace(JudgeConfig(), size=WIDE))]
        right = [low <= place.x <= high for place in found]
        sized = [0.25 <= place.height <= 1 and place.width <= 0.75 for place in found]
        records += [
            record(f"scenes, {words}", float(np.mean(right)), "share", len(found)),
            record(f"scenes, {words}, at its size", float(np.mean(sized)), "share", len(found)),
        ]
    return records


def record(metric: str, value: float, unit: str, n: int | None) -> dict:
    """Return one figure in the runner's form."""
    return {"metric": metric, "value": value, "unit": unit, "n": n}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=STARTER_MODEL)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--subjects", type=int)
    chosen = parser.parse_args()
    print(json.dumps(main(chosen.model, chosen.corpus, chosen.subjects), indent=1))
