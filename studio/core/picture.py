"""A finished picture and the set it was drawn in."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.request import GenerationRequest


@dataclass(frozen=True)
class Picture:
    """One finished picture: its file, its recipe, and what its artist thinks of it."""

    id: int  # row in the store; grows with time
    job_id: str
    path: str  # of the PNG, relative to the data folder, with forward slashes
    sha256: str  # of the file's bytes
    request: GenerationRequest
    index: int  # within its job; its noise comes from seed + index
    width: int  # pixels
    height: int
    seconds: float  # drawing time of this picture
    created_at: float  # seconds since 1970
    starred: bool = False
    rating: int | None = None  # 1 to 5
    deleted_at: float | None = None  # in the bin since then
    parent_id: int | None = None  # the picture that this one was made from
    panel: int = 0  # number within its set of panels, from 1; 0 outside of sets

    @property
    def seed(self) -> int:
        """The seed of this picture alone: draws it again with count 1."""
        return self.request.seeds_of(self.index)[0]

    @property
    def variation_seed(self) -> int:
        """The variation seed of this picture alone."""
        return self.request.seeds_of(self.index)[1]
