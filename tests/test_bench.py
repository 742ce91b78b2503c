"""The benchmarks' runner and its statistics."""

import json
import time

import pytest

from tests.benchmarks import measure, runner

RECORD = {
    "metric": "gallery: page", "value": 1.5, "unit": "ms", "ratio_to": "1000 rows", "ratio": 2.0,
    "ci": (1.9, 2.2), "n": 60, "steady": False,
}  # fmt: skip


def test_the_launchers_bench_writes_one_record_file_and_prints_a_table(tmp_path, capsys):
    source = runner.HERE / "example_of_a_benchmark.py"
    source.write_text(
        "def main():\n    print('chatter')\n    return [{'metric': 'm', 'value': 2, 'unit': 's'}]\n"
    )
    try:
        assert runner.run(["example_of_a_benchmark"], tmp_path) == 0
    finally:
        source.unlink()
    [path] = tmp_path.glob("*.json")
    written = json.loads(path.read_text())
    [record] = written["records"]
    assert (record["metric"], record["value"], record["unit"]) == ("m", 2, "s")
    assert record.keys() >= {
        *runner.FIELDS,
        "probe_before",
        "probe_after",
        "threads",
        "load1",
        "psi",
    }
    assert record["probe_before"]["float32"] > 0
    assert written["machine"]["packages"]["torch"]
    assert "chatter" not in capsys.readouterr().out


def test_a_benchmark_that_nobody_wrote_is_refused(tmp_path, capsys):
    assert runner.run(["imaginary"], tmp_path / "bench") == 2
    assert "There is no benchmark imaginary" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()


def test_the_table_marks_a_figure_from_an_unsteady_machine():
    head, line = runner.as_table([RECORD]).splitlines()
    assert head.split() == ["metric", "value", "unit", "n", "against", "ratio", "interval"]
    assert line.split("  ")[0] == "gallery: page"
    assert line.endswith("1.9 to 2.2  unsteady")


def test_the_ratio_of_twice_the_work_is_about_two():
    def work(rounds):
        end = time.process_time() + 0.005 * rounds
        while time.process_time() < end:
            pass

    result = measure.compare(lambda: work(2), lambda: work(1), rounds=3)
    assert result["ratio"] == pytest.approx(2, rel=0.2)
    assert result["ci"][0] <= result["ratio"] <= result["ci"][1]


def test_the_bootstrap_of_equal_rounds_has_no_width():
    assert measure.bootstrap((3.0, 3.0), (2.0, 2.0)) == (1.5, 1.5)
