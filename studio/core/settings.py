"""Where things are and how the studio is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STARTER_MODEL = REPOSITORY / "assets" / "starter"  # a plain diffusers folder
PRESETS = REPOSITORY / "presets"
ASSETS = REPOSITORY / "assets"


@dataclass(frozen=True)
class Settings:
    """What the command line decided; passed to whoever needs it, never looked up."""

    data_dir: Path = REPOSITORY / "data"  # everything the artist makes; the only folder written to
    models_dir: Path = REPOSITORY / "models"  # the artist's own diffusers folders
    host: str = "127.0.0.1"
    port: int = 7860
    auth: tuple[str, str] | None = None  # user and password; demanded by --listen
    raters: tuple[tuple[str, str], ...] = ()  # name and password of people who only rate
    database_url: str = ""  # empty: SQLite in the data folder
    autolaunch: bool = False  # open the browser
    device: str = ""  # '', 'cpu', 'cuda', 'mps'; empty chooses

    @property
    def pictures_dir(self) -> Path:
        """Finished pictures, one folder a day."""
        return self.data_dir / "pictures"

    @property
    def thumbnails_dir(self) -> Path:
        """256-pixel WebP thumbnails, made again when lost."""
        return self.data_dir / "thumbnails"

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "easel.sqlite3"

    @property
    def backups_dir(self) -> Path:
        """Copies of the SQLite file."""
        return self.data_dir / "backups"

    @property
    def training_dir(self) -> Path:
        """Corpora, checkpoints and sample sheets of the training recipe."""
        return self.data_dir / "training"

    @property
    def presets_dir(self) -> Path:
        """Presets that the artist saved; the shipped ones are in `PRESETS`."""
        return self.data_dir / "presets"
