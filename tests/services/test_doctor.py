"""Doctor finds what is wrong, says how to mend it, and changes nothing."""

import contextlib
import json
import sqlite3
import subprocess
import sys

from studio.core.settings import Settings
from studio.services import doctor
from studio.services.ownership import own_studio
from studio.store.check import find_database_fault
from studio.store.database import open_database
from tests.source_rules import ROOT


def test_doctor_names_what_is_wrong_and_how_to_mend_it(settings):
    settings.database_path.write_bytes(b"SQLite format 3\0" + b"broken" * 400)
    (settings.models_dir / "half-copied").mkdir()
    wrong = {f.subject: f for f in doctor.examine(settings) if f.wrong}
    assert wrong.keys() >= {"Database", "Model half-copied"}
    assert "there is no backup" in wrong["Database"].remedy
    assert all(finding.remedy for finding in wrong.values())


def test_doctor_changes_nothing(tmp_path):
    doctor.examine(Settings(data_dir=tmp_path / "not-there", models_dir=tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_a_broken_preset_and_leaves_it_in_its_place(settings):
    settings.presets_dir.mkdir()
    mine = settings.presets_dir / "mine.json"
    mine.write_text("{")
    [found] = [f for f in doctor.examine(settings) if f.subject == "Presets"]
    assert found.wrong and "'mine.json' is broken" in found.sentence
    assert list(settings.presets_dir.iterdir()) == [mine]


def test_doctor_says_where_a_studio_runs(settings):
    with own_studio(settings.data_dir) as announce:
        announce("http://127.0.0.1:7899")
        sentences = [finding.sentence for finding in doctor.examine(settings)]
    assert "A studio is running at http://127.0.0.1:7899." in sentences


def test_doctor_finds_a_database_from_a_newer_easel(settings):
    open_database(settings).close()
    assert find_database_fault(settings.database_path) == ""
    with contextlib.closing(sqlite3.connect(settings.database_path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
        connection.commit()
    assert "newer Easel" in find_database_fault(settings.database_path)


def test_doctor_closes_with_how_many_things_are_to_mend(settings):
    findings = doctor.examine(settings)
    wrong = sum(finding.wrong for finding in findings)
    closing = doctor.as_text(findings).splitlines()[-1]
    assert closing == (
        "All is well." if not wrong else f"{wrong} thing{'s' * (wrong > 1)} to mend."
    )
    subjects = {finding.subject for finding in findings}
    assert subjects >= {"System", "Packages", "Device", "Memory", "Disk", "Database"}


def test_doctor_points_an_unused_gpu_to_the_torch_index(tmp_path):
    (tmp_path / "0000:01:00.0").mkdir()
    [finding] = doctor._unused_gpu(tmp_path)
    assert finding.wrong
    assert "--torch-index" in finding.remedy


def test_doctor_ends_with_1_when_something_is_wrong_and_prints_json(tmp_path):
    folders = ["--data-dir", tmp_path, "--models-dir", tmp_path / "models"]
    (tmp_path / "models" / "half-copied").mkdir(parents=True)
    command = [sys.executable, "launch.py", "doctor", "--json", "--skip-install", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    wrong = [finding["subject"] for finding in json.loads(done.stdout) if finding["wrong"]]
    assert "Model half-copied" in wrong
