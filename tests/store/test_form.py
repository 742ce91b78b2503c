"""The page's controls are there again after a reload."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import StorageError
from studio.core.settings import Settings
from studio.store.database import Database, open_database
from studio.store.form import MAX_CHARACTERS, FormStore

ON_BOTH_DATABASES = True

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    database = open_database(Settings(data_dir=tmp_path_factory.mktemp("data")))
    yield FormStore(database)
    database.close()


@given(state=st.dictionaries(st.text(), JSON, max_size=5))
def test_what_is_saved_is_loaded(shared: FormStore, state: dict):
    shared.save("txt2img", state)
    assert shared.load("txt2img") == state


def test_a_form_survives_a_restart(settings: Settings):
    database = open_database(settings)
    FormStore(database).save("txt2img", {"prompt": "猫\n'"})
    database.close()
    database = open_database(settings)
    assert FormStore(database).load("txt2img") == {"prompt": "猫\n'"}
    database.close()


def test_a_form_that_was_never_saved_is_empty(database: Database):
    assert FormStore(database).load("img2img") == {}


def test_forms_do_not_mix(database: Database):
    forms = FormStore(database)
    forms.save("a", {"seed": 1})
    forms.save("b", {"seed": 2})
    assert (forms.load("a"), forms.load("b")) == ({"seed": 1}, {"seed": 2})


def test_a_change_begins_from_what_was_saved_and_returns_what_is_kept(database: Database):
    forms = FormStore(database)
    forms.save("page", {"seed": 1, "source": "a"})
    assert forms.change("page", lambda kept: kept | {"seed": 2}) == {"seed": 2, "source": "a"}
    assert forms.load("page") == {"seed": 2, "source": "a"}


@pytest.mark.parametrize(
    "state",
    [{"x": math.nan}, {"x": object()}, {"x": "y" * MAX_CHARACTERS}],
    ids=["nan", "object", "long"],
)
def test_what_cannot_be_saved_is_refused_and_the_last_state_kept(database: Database, state: dict):
    forms = FormStore(database)
    forms.save("page", {"seed": 1})
    with pytest.raises(StorageError, match="last saved state is kept"):
        forms.save("page", state)
    assert forms.load("page") == {"seed": 1}


def test_a_form_nested_without_end_is_refused(database: Database):
    endless: dict = {}
    endless["self"] = endless
    with pytest.raises(StorageError):
        FormStore(database).save("page", endless)
