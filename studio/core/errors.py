"""Everything that can go wrong, as sentences an artist can act on.

EaselError                      what happened, to which thing, what to do next
├── InvalidRequestError         one field of a request cannot be drawn; names the field
├── ModelError                  a model folder is missing, broken or refused
├── NotEnoughMemoryError        the picture does not fit in memory
├── StorageError                a file or the database could not be written or read
│   ├── DiskFullError
│   └── NewerDatabaseError      the database was made by a newer Easel
├── NotFoundError               a picture, job or preset that is not there (any more)
├── StudioRunningError          another process owns this data folder
├── VoteRefusedError            a vote, pair or campaign that does not fit what is stored
├── ImportRefusedError          a file of votes that cannot be taken in; nothing of it was
└── TrainingError               a stage lacks its inputs or met a damaged checkpoint
"""

from __future__ import annotations


class EaselError(Exception):
    """A refusal or failure whose message is a full sentence with a next step."""


class InvalidRequestError(EaselError):
    """One field of a request cannot be drawn.

    `field` is the name of the offending field of `GenerationRequest`, so that a page can show the
    sentence beside its control.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class ModelError(EaselError):
    """A model folder is missing, broken or refused."""


class NotEnoughMemoryError(EaselError):
    """The picture does not fit in the device's memory, even after the retries."""


class StorageError(EaselError):
    """A file or the database could not be written or read."""


class DiskFullError(StorageError):
    """The disk that holds the data folder is full."""


class NewerDatabaseError(StorageError):
    """The database was made by a newer Easel; nothing in it was changed."""


class NotFoundError(EaselError):
    """A picture, job or preset is not there (any more)."""


class StudioRunningError(EaselError):
    """Another process owns this data folder."""


class VoteRefusedError(EaselError):
    """A vote, pair or campaign does not fit what is stored; nothing was changed."""


class ImportRefusedError(EaselError):
    """A file of votes cannot be taken in; nothing of it was."""


class TrainingError(EaselError):
    """A training stage lacks its inputs or met a damaged checkpoint."""
