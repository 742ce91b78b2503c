"""JSON of any size and layout is read as the json module would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from studio.core.errors import ImportRefusedError
from studio.store.vote_formats.json_rows import read_json_rows

FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)

# A crowded machine is slow at making up examples; that says nothing about the reader.
unhurried = settings_of_hypothesis(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, written anew for each example."""
    return tmp_path_factory.mktemp("json") / "rows.json"


@given(
    rows=st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=6),
    layout=st.sampled_from(["array", "indented", "lines"]),
    padding=st.integers(0, 70_000),
)
@unhurried
def test_json_of_any_layout_is_read_row_by_row(
    rows: list[dict], layout: str, padding: int, file: Path
):
    rows = [{"padding": "x" * padding}, *rows]  # so that rows lie across the reader's chunks
    text = {
        "array": lambda: json.dumps(rows),
        "indented": lambda: json.dumps(rows, indent=2, ensure_ascii=True),
        "lines": lambda: "\n".join(map(json.dumps, rows)),
    }[layout]()
    file.write_text(text, encoding="utf-8")
    assert [row for _, row in read_json_rows(file)] == rows


@given(text=st.text(alphabet='[]{}",:1ae\\ \n', max_size=40))
@unhurried
def test_any_text_is_read_as_json_would_or_refused(text: str, file: Path):
    file.write_text(text, encoding="utf-8")
    try:
        found = [row for _, row in read_json_rows(file)]
    except ImportRefusedError:
        return
    if text.lstrip().startswith("["):
        assert json.loads(text) == found
    else:
        assert all(isinstance(row, dict) for row in found)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_know_is_refused(constant: str, file: Path):
    file.write_text(f'[{{"label_0": {constant}}}]', encoding="utf-8")
    with pytest.raises(ImportRefusedError, match="is not JSON"):
        list(read_json_rows(file))
