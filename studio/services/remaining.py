"""Time left over a whole job: the sampler counts steps, this adds the decoding that follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from studio.core.events import Progress
from studio.core.request import GenerationRequest


class DecodeClock:
    """Remembers what decoding a pixel took, from job to job. Used on the worker's thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds_per_pixel = 0.0  # unknown until a picture was decoded
        self._last_step = 0.0  # when the last step of the batch at hand was done
        self._decoding = 0.0  # seconds that the batch at hand was decoded
        self._decoded = 0  # pictures of it that came out

    def stepped(self, progress: Progress, request: GenerationRequest, finished: int) -> Progress:
        """Return the progress with the decoding of the unfinished pictures in `seconds_left`."""
        self._last_step, self._decoded = self._clock(), 0
        if progress.seconds_left is None:
            return progress
        pixels = (request.count - finished) * request.width * request.height
        decoding = pixels * self._seconds_per_pixel
        return replace(progress, seconds_left=progress.seconds_left + decoding)

    def drawn(self, request: GenerationRequest) -> None:
        """Note that a picture came out of the autoencoder, alone or with others of its batch."""
        if self._decoded == 0:
            self._decoding = self._clock() - self._last_step
        self._decoded += 1
        pixels = self._decoded * request.width * request.height
        self._seconds_per_pixel = self._decoding / pixels
