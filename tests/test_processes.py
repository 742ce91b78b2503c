"""In how many processes the tests run: one a core, unless the arguments choose."""

import os

import pytest

from tests.processes import MOST, spread


@pytest.mark.parametrize("given", [["-n", "0"], ["-n4"], ["-s"], ["-q", "--pdb"]])
def test_who_chooses_processes_or_needs_the_terminal_is_left_alone(given):
    assert spread(given, cores=2) == given


def test_a_process_for_each_core_and_each_file_in_one_of_them(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert spread(["-q"], cores=1) == ["-q"]
    assert spread(["-q"], cores=2) == ["--numprocesses=2", "--dist=loadfile", "-q"]
    assert spread([], cores=64)[0] == f"--numprocesses={MOST}"


def test_each_process_computes_on_one_core_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    spread([], cores=2)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    spread([], cores=2)
    assert os.environ["OMP_NUM_THREADS"] == "2"
