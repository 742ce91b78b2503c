"""A studio that begins a run of fine-tuning and is killed in the middle of its second epoch.

python tests/services/killed_studio.py DATA MODELS STEP
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from studio.core.events import StageProgress
from studio.core.settings import Settings
from studio.services.studio import open_studio
from studio.services.worker import JobEvent
from tests.services.finetune_plan import PLAN


def main(data: Path, models: Path, step: int) -> None:
    def watch(_job: str, event: JobEvent) -> None:
        where = event.metrics.get("epoch") if isinstance(event, StageProgress) else None
        if where == 2 and event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    studio = open_studio(Settings(data_dir=data, models_dir=models, device="cpu"))
    studio.worker.listen(watch)
    studio.finetuning.start(PLAN)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
