"""Roles, blindness and the vote's way, on a really started studio with an owner and two raters."""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from studio.core.settings import Settings
from studio.services.studio import open_studio
from tests.services.rated import file_pictures, gallery_campaign
from tests.ui.served import Answer, Served, served

SECRETS = (b"tiny", b"sha256", b"seed", b"model", b"score", b"request", b"job")


@dataclass(frozen=True)
class Lab:
    """A studio with a campaign, and who may enter it."""

    studio: Served
    campaign: str

    def ask(
        self, path: str, who: str = "owner", method: str = "GET", body: dict | None = None, **more
    ) -> Answer:
        key = base64.b64encode(f"{who}:secret-{who}".encode()).decode()
        headers = {"Authorization": f"Basic {key}"} | more
        return self.studio.ask(path, method, headers, body)

    def pairs(self, who: str, rater: str = "", count: int = 3) -> Answer:
        return self.ask(
            f"/easel/rate/pairs?campaign={self.campaign}&rater={rater or who}&count={count}", who
        )

    def vote(self, who: str, pair: str, choice: str = "left", **fields: object) -> Answer:
        values = {"event": str(uuid.uuid4()), "session": "session-1", "response_ms": 700}
        body = values | {"pair": pair, "rater": who, "choice": choice} | fields
        return self.ask("/easel/rate/votes", who, "POST", body)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Lab]:
    data_dir = tmp_path_factory.mktemp("lab") / "data"
    data_dir.mkdir()
    studio = open_studio(replace(Settings(), data_dir=data_dir, models_dir=models_dir))
    file_pictures(studio, prompts=8, each=5)
    campaign = gallery_campaign(studio, name="Which colour?")
    studio.close()
    adapter = data_dir / "adapters" / "soft light.safetensors"
    adapter.parent.mkdir(exist_ok=True)
    lineage = {"easel.lineage": json.dumps({"base": "tiny"})}
    save_file({"unet.up.lora_A.weight": np.zeros((1, 1), np.float32)}, adapter, lineage)
    flags = ["--auth", "owner:secret-owner"]
    for rater in ("ann", "bob"):
        flags += ["--rater", f"{rater}:secret-{rater}"]
    with served(data_dir, models_dir, flags) as running:
        yield Lab(running, campaign.id)


def test_a_raters_login_opens_the_rate_page_alone(lab: Lab):
    page = lab.ask("/", "ann")
    assert page.status == 200
    assert b"/easel/page/rater.js" in page.body
    assert b"gradio" not in page.body.lower()
    assert b"gradio" in lab.ask("/", "owner").body.lower()


@pytest.mark.parametrize(
    "path",
    [
        "/config", "/gradio_api/info", "/gradio_api/queue/join", "/easel/state", "/easel/pictures",
        "/easel/picture/1", "/easel/thumbnail/1", "/easel/health", "/easel/samples",
        "/easel/contact-sheet.png?ids=1", "/easel/rate/owner/choices",
        "/easel/rate/owner/report/x.html", "/easel/rate/owner/pictures/1/score",
        "/easel/rate/../state", "/easel/rate/%2e%2e/state", "//easel/rate/pairs", "/easel/rate",
        "/easel/rate/owner%2fchoices", "/easel/rate//owner/choices", "/theme.css",
    ],
)  # fmt: skip
def test_a_rater_reaches_nothing_else(lab: Lab, path: str):
    assert lab.ask(path, "ann").status in (403, 404)


@pytest.mark.parametrize("verb", ["pause", "resume", "archive"])
def test_a_rater_changes_no_campaign(lab: Lab, verb: str):
    path = f"/easel/rate/owner/campaigns/{lab.campaign}/{verb}"
    assert lab.ask(path, "ann", "POST", {}).status == 403
    assert lab.ask("/easel/rate/campaigns", "owner").json()["campaigns"][0]["state"] == "running"


def test_without_a_password_there_is_nothing(lab: Lab):
    for path in ("/", "/easel/rate/campaigns", "/easel/rate/page", "/easel/page/rate.js"):
        assert lab.studio.ask(path).status == 401
    wrong = {"Authorization": "Basic " + base64.b64encode(b"ann:secret-bob").decode()}
    assert lab.studio.ask("/", headers=wrong).status == 401


def test_what_a_rater_is_told_gives_nothing_away(lab: Lab):
    for path in (
        "/easel/rate/campaigns?rater=ann",
        f"/easel/rate/pairs?campaign={lab.campaign}&rater=ann",
        f"/easel/rate/standing?campaign={lab.campaign}&rater=ann",
    ):
        told = lab.ask(path, "ann")
        assert told.status == 200
        assert not [secret for secret in SECRETS if secret in told.body]
        assert not re.search(rb"[0-9a-f]{64}", told.body)
    [campaign] = lab.ask("/easel/rate/campaigns", "ann").json()["campaigns"]
    assert (campaign["about"], campaign["doing"], campaign["standing"]) == ("", "", "")


def test_pictures_come_bare_under_random_names(lab: Lab):
    [pair, *_] = lab.pairs("ann").json()["pairs"]
    assert set(pair) == {"pair", "prompt", "left", "right", "width", "height"}
    headers = []
    for side in ("left", "right"):
        assert re.fullmatch(r"/easel/rate/picture/[0-9a-f]{24}", pair[side])
        served_picture = lab.ask(pair[side], "ann")
        with Image.open(io.BytesIO(served_picture.body)) as image:
            image.load()
            assert image.info == {}
        headers.append({n: v for n, v in served_picture.headers.items() if n != "content-length"})
        assert not {"etag", "last-modified", "content-disposition"} & set(served_picture.headers)
    names = {"date"}
    left, right = ({n: v for n, v in h.items() if n not in names} for h in headers)
    assert left == right


def test_a_rater_votes_under_the_logins_name_whatever_is_sent(lab: Lab):
    own = lab.pairs("ann", rater="owner").json()["pairs"]
    again = lab.pairs("ann", rater="bob").json()["pairs"]
    assert own == again[: len(own)]  # more may have been chosen meanwhile
    assert own != lab.pairs("bob").json()["pairs"][: len(own)]
    answer = lab.vote("ann", own[0]["pair"], rater="bob")
    assert answer.status == 200
    assert lab.vote("bob", own[1]["pair"], rater="ann").status == 400
    mine = lab.ask("/easel/rate/campaigns?rater=bob", "ann").json()["campaigns"][0]["mine"]
    assert mine == 1


def test_a_vote_is_answered_with_its_id_and_undone_by_it(lab: Lab):
    [pair, *_] = lab.pairs("bob").json()["pairs"]
    event = str(uuid.uuid4())
    for _ in range(2):  # the same click, sent twice
        assert lab.vote("bob", pair["pair"], event=event).json() == {"vote": event}
    refused = lab.vote("bob", pair["pair"], "right")
    assert refused.status == 400
    assert "answered already" in refused.json()["sentence"]
    body = {"event": str(uuid.uuid4()), "vote": event, "rater": "bob"}
    again = lab.ask("/easel/rate/undo", "bob", "POST", body)
    assert again.json()["pair"] == pair
    assert lab.pairs("bob").json()["pairs"][0] == pair


@pytest.mark.parametrize(
    "fields",
    [
        {"choice": "best"}, {"choice": "star"}, {"event": "short"}, {"event": "a/../../b" * 3},
        {"response_ms": -1}, {"response_ms": "soon"}, {"pair": ""}, {"rater": None},
        {"session": "x" * 100},
    ],
)  # fmt: skip
def test_a_malformed_vote_is_refused_in_a_sentence(lab: Lab, fields: dict):
    [pair, *_] = lab.pairs("bob").json()["pairs"]
    values = {"event": str(uuid.uuid4()), "session": "session-1", "response_ms": 700}
    body = values | {"pair": pair["pair"], "rater": "bob", "choice": "left"} | fields
    answer = lab.ask("/easel/rate/votes", "bob", "POST", body)
    assert answer.status == 422
    assert answer.json()["sentence"]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_a_foreign_page_casts_no_vote(lab: Lab, headers: dict):
    body = {"event": "x" * 12, "pair": "x" * 12, "rater": "bob", "session": "x" * 12}
    body |= {"choice": "left", "response_ms": 1}
    assert lab.ask("/easel/rate/votes", "bob", "POST", body, **headers).status == 403


def test_the_owner_makes_pauses_and_archives_campaigns(lab: Lab):
    body = {"name": "From the gallery", "prompts": [], "contestants": [], "gallery": "all"}
    made = lab.ask("/easel/rate/owner/campaigns", "owner", "POST", body)
    assert made.status == 200, made.body
    again = lab.ask("/easel/rate/owner/campaigns", "owner", "POST", body)
    assert (again.status, "already" in again.json()["sentence"]) == (400, True)
    for verb, state in (("pause", "paused"), ("resume", "running"), ("archive", "archived")):
        path = f"/easel/rate/owner/campaigns/{made.json()['id']}/{verb}"
        assert lab.ask(path, "owner", "POST", {}).json()["state"] == state
    seen = lab.ask("/easel/rate/campaigns", "ann").json()["campaigns"]
    assert [campaign["name"] for campaign in seen] == ["Which colour?"]


def test_the_form_gets_its_choices(lab: Lab):
    choices = lab.ask("/easel/rate/owner/choices").json()
    assert {"starter", "tiny"} <= {c["value"]["model"] for c in choices["contestants"]}
    assert [entry["name"] for entry in choices["strategies"]] == ["eig", "random", "tournament"]
    assert all(entry["prompts"] for entry in choices["prompt_lists"])
    [adapter] = [c["value"] for c in choices["contestants"] if "soft light" in c["title"]]
    [[name, sha256, strength]] = adapter["adapters"]
    assert (adapter["model"], name, len(sha256), strength) == ("tiny", "soft light", 64, 1.0)


def test_a_model_meets_itself_with_an_adapter(lab: Lab):
    choices = lab.ask("/easel/rate/owner/choices").json()["contestants"]
    chosen = [c["value"] for c in choices if c["value"]["model"] == "tiny"]
    body = {"name": "Adapted?", "prompts": ["a fox"], "contestants": chosen, "steps": 1}
    made = lab.ask("/easel/rate/owner/campaigns", "owner", "POST", body).json()
    assert made["about"].startswith("tiny against tiny + soft light at 1; 1 prompt, ")
    lab.ask(f"/easel/rate/owner/campaigns/{made['id']}/archive", "owner", "POST", {})
    gone = {"model": "tiny", "adapters": [["gone", "0" * 64, 1.0]]}
    refused = lab.ask(
        "/easel/rate/owner/campaigns",
        "owner",
        "POST",
        body | {"name": "Gone?", "contestants": [chosen[0], gone]},
    )
    assert refused.status == 404 and "adapter" in refused.json()["sentence"]


def test_how_pairs_are_chosen_is_switched_while_people_rate(lab: Lab):
    path = f"/easel/rate/owner/campaigns/{lab.campaign}/strategy"
    changed = lab.ask(path, "owner", "POST", {"strategy": "tournament"}).json()
    assert changed["strategy"] == "tournament"
    refused = lab.ask(path, "owner", "POST", {"strategy": "alphabetical"})
    assert (refused.status, bool(refused.json()["sentence"])) == (400, True)
    assert lab.ask(path, "ann", "POST", {"strategy": "random"}).status == 403
    lab.ask(path, "owner", "POST", {"strategy": "random"})


def test_the_owner_sees_what_the_votes_are_good_for(lab: Lab):
    taste = lab.ask("/easel/rate/owner/taste").json()
    assert taste["predicted"] is None and taste["bins"] == []
    assert any("Rate" in sentence for sentence in taste["sentences"])
    assert lab.ask("/easel/rate/owner/taste", "ann").status == 403


def test_the_study_report_asks_for_nothing_from_outside(lab: Lab):
    page = lab.ask(f"/easel/rate/owner/report/{lab.campaign}.html")
    assert page.status == 200
    html = page.body.decode()
    assert not re.search(r'(?:src|href)="(?!data:)', html)
    assert "http" not in html.replace("http-equiv", "")
    table = lab.ask(f"/easel/rate/owner/report/{lab.campaign}.csv")
    assert table.body.startswith(b"section,name,other,metric,value,low,high,n\n")
    assert lab.ask("/easel/rate/owner/report/nothing.html").status == 404


def test_the_owner_downloads_the_votes_with_their_pictures(lab: Lab):
    pair = lab.pairs("bob").json()["pairs"][0]
    vote = lab.vote("bob", pair["pair"]).json()["vote"]
    answer = lab.ask(f"/easel/rate/owner/export/{lab.campaign}.zip")
    assert answer.headers["content-disposition"].startswith("attachment")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        lines = archive.read("votes.jsonl").decode().splitlines()
        events = {row["vote"]["id"]: row["vote"] for row in map(json.loads, lines) if "vote" in row}
        assert f"images/{events[vote]['left']}.png" in archive.namelist()
        assert events[vote]["rater"] == "bob"
        assert b"tiny" in archive.read(f"images/{events[vote]['left']}.png")
    assert lab.ask("/easel/rate/owner/export/none.zip").status == 404
    assert lab.ask(f"/easel/rate/owner/export/{lab.campaign}.zip", "bob").status == 403


def test_an_export_leaves_names_and_recipes_here_when_asked(lab: Lab):
    vote = lab.vote("bob", lab.pairs("bob").json()["pairs"][0]["pair"]).json()["vote"]
    asked = "pseudonyms=true&without_recipes=true"
    answer = lab.ask(f"/easel/rate/owner/export/{lab.campaign}.zip?{asked}")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        rows = map(json.loads, archive.read("votes.jsonl").decode().splitlines())
        [told] = [row["vote"] for row in rows if row.get("vote", {}).get("id") == vote]
        assert told["rater"] not in ("", "bob")
        for name in archive.namelist():
            assert b"bob" not in archive.read(name) if name.endswith(".jsonl") else True
            assert b"tiny" not in archive.read(name)
        assert f"images/{told['left']}.png" in archive.namelist()


def test_stars_ratings_and_the_best_of_a_batch_are_votes(lab: Lab):
    picture = lab.ask("/easel/pictures?limit=1").json()["pictures"][0]
    lab.ask(f"/easel/pictures/{picture['id']}/star", "owner", "POST", {"starred": True})
    lab.ask(f"/easel/pictures/{picture['id']}/rate", "owner", "POST", {"rating": 4})
    best = lab.ask(f"/easel/rate/owner/pictures/{picture['id']}/best", "owner", "POST", {})
    assert best.json()["sentence"] == "Noted: better than the 4 others of its batch."
    from studio.store.database import open_database
    from studio.store.votes import VoteStore

    database = open_database(Settings(data_dir=lab.studio.data_dir))
    given = list(VoteStore(database).votes(rater="artist"))
    database.close()
    assert [(v.choice, v.strength) for v in given[:2]] == [("star", 1.0), ("rating", 4.0)]
    assert {v.winner for v in given[2:]} == {picture["sha256"]}
    assert {v.selection for v in given[2:]} == {"batch"}
    assert json.dumps(given[0].to_dict())


def test_before_any_taste_it_is_said_in_a_sentence(lab: Lab):
    picture = lab.ask("/easel/pictures?limit=1").json()["pictures"][0]
    score = lab.ask(f"/easel/rate/owner/pictures/{picture['id']}/score").json()
    assert (score["score"], bool(score["sentence"])) == (None, True)
    refused = lab.ask("/easel/rate/owner/by-taste")
    assert (refused.status, "taste" in refused.json()["sentence"]) == (400, True)
