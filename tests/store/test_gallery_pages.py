"""Pages, searches and counts: complete, in order, and by an index whatever the filters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from studio.core.settings import Settings
from studio.store.database import Database, open_database
from studio.store.picture_query import PictureFilter, count_query, index_for, page_query
from studio.store.pictures import PictureStore
from studio.store.search import index_prompt, mark_prompt
from studio.store.tables import PICTURES
from tests.benchmarks.gallery import fill, synthetic_rows

ROWS = 1200
OF_CAMPAIGN = 5  # each fifth row was drawn for a campaign
ALL_ROWS = tuple(
    row | ({"job_id": "campaign-ab12"} if row["id"] % OF_CAMPAIGN == 0 else {})
    for row in synthetic_rows(1, ROWS)
)
DRAWN_FOR = ("artist", "campaigns")
COMBINATIONS = tuple(
    PictureFilter(*values)
    for values in [
        *itertools.product(
            ("", "flat apple"), (False, True), (False, True), (None, "job17"), (None, "set0")
        ),
        *itertools.product(("", "flat apple"), (False, True), [False], [None], [None], DRAWN_FOR),
    ]
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, PictureStore]]:
    """Three thousand rows with statistics gathered, as after a day's work."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    database = open_database(settings)
    fill(database, 1, ROWS)
    with database.writer.begin() as connection:
        drawn = update(PICTURES).where(PICTURES.c.id % OF_CAMPAIGN == 0)
        connection.execute(drawn.values(job_id="campaign-ab12"))
        connection.exec_driver_sql("ANALYZE")
    yield database, PictureStore(database, settings.data_dir)
    database.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(Settings(data_dir=tmp_path_factory.mktemp("data")))
    yield database
    database.close()


def expected(wanted: PictureFilter) -> list[int]:
    """The same question answered by Python over all rows."""
    return [
        row["id"]
        for row in reversed(ALL_ROWS)
        if row["shelf"] == ("bin" if wanted.deleted else "gallery")
        and (row["starred"] or not wanted.starred)
        and wanted.job_id in (None, row["job_id"])
        and wanted.set_id in (None, row["set_id"])
        and wanted.drawn_for in ("", DRAWN_FOR[row["job_id"].startswith("campaign-")])
        and all(
            any(word.startswith(part) for word in row["prompt"].replace(",", "").split())
            for part in wanted.search.split()
        )
    ]


def plan(database: Database, query) -> list[str]:
    compiled = query.compile(database.engine)
    with database.engine.connect() as connection:
        explained = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {compiled}",
            tuple(compiled.params[name] for name in compiled.positiontup),
        )
        return [row.detail for row in explained]


@pytest.mark.parametrize("wanted", COMBINATIONS, ids=str)
def test_pages_and_counts_equal_a_plain_filter_over_all_rows(filled, wanted: PictureFilter):
    _, store = filled
    filters = vars(wanted)
    found: list[int] = []
    while page := store.page(before=found[-1] if found else None, limit=97, **filters):
        found += [picture.id for picture in page]
    assert found == expected(wanted)
    assert store.count(**filters) == len(found)


@pytest.mark.parametrize("before", [None, 600])
@pytest.mark.parametrize("wanted", COMBINATIONS, ids=str)
@pytest.mark.parametrize("analysed", [False, True], ids=["new", "analysed"])
def test_every_page_query_walks_an_index_and_sorts_nothing(
    filled, empty: Database, analysed: bool, wanted: PictureFilter, before: int | None
):
    asked = filled[0] if analysed else empty
    steps = plan(asked, page_query("sqlite", wanted, before, 60))
    assert not [step for step in steps if "TEMP B-TREE" in step]
    words = [step for step in steps if step.startswith("SCAN prompt_words VIRTUAL TABLE INDEX")]
    rows = [step for step in steps if "pictures" in step]
    assert set(steps) <= {*words, *rows, "CORRELATED SCALAR SUBQUERY 1"}
    assert len(words) == bool(wanted.search) and len(rows) == 1
    narrow = wanted.job_id or wanted.set_id
    if wanted.search and not narrow:
        assert rows == ["SEARCH pictures USING INTEGER PRIMARY KEY (rowid=?)"]
        assert steps == words + rows  # the words lead
    else:
        assert rows[0].startswith(f"SEARCH pictures USING INDEX {index_for(wanted)} (")
        assert before is None or "id<?" in rows[0]


@pytest.mark.parametrize("wanted", COMBINATIONS, ids=str)
def test_no_count_reads_the_whole_table(filled, wanted: PictureFilter):
    steps = plan(filled[0], count_query("sqlite", wanted))
    steps = [step for step in steps if "pictures" in step or "prompt_words" in step]
    assert steps and all("INDEX" in step or "PRIMARY KEY" in step for step in steps)


def test_a_starred_search_for_a_common_word_is_one_intersection(filled):
    _, store = filled
    starred = store.page(search="flat", starred=True)
    assert starred and all(picture.starred for picture in starred)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureStore]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    database = open_database(settings)
    texts = (
        "A Café by the sea, (dusk:1.2)",
        "青い飛行機とリンゴ",
        "blue-green <script>alert('x')</script> 100% \"quoted\"",
        "steam_engine",
        "𠮷野家 bowl",
        "cat",
        "catalogue",
    )
    with database.writer.begin() as connection:
        for row, text in zip(synthetic_rows(1, len(texts)), texts, strict=True):
            values = row | {"prompt": text, "shelf": "gallery", "deleted_at": None}
            connection.execute(insert(PICTURES).values(values))
            index_prompt(connection, values["id"], text)
            mark_prompt(connection, values)
    yield PictureStore(database, settings.data_dir)
    database.close()


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("cafe", [1]),
        ("CAFÉ sea", [1]),
        ("ca", [7, 6, 1]),
        ("cat", [7, 6]),
        ("dusk:1.2", [1]),
        ("飛行機", [2]),
        ("行機 リン", [2]),
        ("機飛", []),
        ("吉", []),
        ("𠮷野", [5]),
        ("blue-green", [3]),
        ("green-blue", []),
        ("<script>", [3]),
        ('"quoted"', [3]),
        ("engine", [4]),
        ("steam_engine", [4]),
        ("cat dog", []),
        ("...", []),
        ("   ", [7, 6, 5, 4, 3, 2, 1]),
    ],
)
def test_search_finds_words_by_their_beginning_in_any_script(
    prompts: PictureStore, search: str, found: list[int]
):
    assert [picture.id for picture in prompts.page(search=search)] == found
    assert prompts.count(search=search) == len(found)


@given(
    search=st.text(max_size=40)
    | st.text(alphabet="\"*()^:-+{}NEAROTD \\'%_\0\ud800;", max_size=40)
    | st.text(min_size=300, max_size=400)
)
def test_no_search_text_is_an_error(prompts: PictureStore, search: str):
    assert len(prompts.page(search=search)) == prompts.count(search=search)


@pytest.mark.parametrize(
    "search", ['" OR "', "cat OR dog", "marks:starred", "NOT cat", "cat*", "NEAR(cat dog)", "{x}:y"]
)
def test_query_syntax_is_read_as_plain_words(prompts: PictureStore, search: str):
    words = "".join(c if c.isalnum() else " " for c in search).lower().split()
    found = [p.request and p.id for p in prompts.page(search=search)]
    assert found == ([7, 6] if words == ["cat"] else [])


@pytest.mark.parametrize("wanted", COMBINATIONS, ids=str)
def test_on_postgresql_the_same_questions_are_plain_sql(wanted: PictureFilter):
    for query in (page_query("postgresql", wanted, 9, 60), count_query("postgresql", wanted)):
        sql = str(query.compile(dialect=postgresql.dialect()))
        assert "INDEXED" not in sql and "prompt_words" not in sql and "MATCH" not in sql
        questions = 2 if "count" in sql and wanted.drawn_for == "artist" else 1
        assert sql.count("ILIKE") == questions * len(wanted.search.split())


def test_on_postgresql_numbers_keep_their_range():
    sql = str(CreateTable(PICTURES).compile(dialect=postgresql.dialect()))
    assert "id BIGSERIAL" in sql and "seed BIGINT" in sql and "seconds DOUBLE PRECISION" in sql
    assert "STRICT" not in sql


def test_counts_follow_every_change(store: PictureStore, database: Database):
    fill(database, 1, 40)
    before = store.count()
    first = store.page()[0]
    store.delete(first.id)
    assert (store.count(), store.count(deleted=True)) == (before - 1, 40 - before + 1)
    store.restore(first.id)
    starred = store.count(starred=True)
    store.star(first.id, not first.starred)
    assert store.count(starred=True) == starred + (-1 if first.starred else 1)
    fill(database, 41, 1)  # as another process would
    assert store.count() + store.count(deleted=True) == 41


@pytest.mark.parametrize("limit", [-5, 0, 1])
def test_a_page_holds_at_least_one_picture(filled, limit: int):
    assert len(filled[1].page(limit=limit)) == 1
