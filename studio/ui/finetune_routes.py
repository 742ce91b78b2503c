"""The addresses of the Fine-tune tab: its state, its form, and what is done with a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, StringConstraints

from studio.core.errors import EaselError
from studio.core.run import Run, RunPlan
from studio.services.adapter_shelf import file_name
from studio.services.model_card import archive, model_card
from studio.services.run_view import strip_picture
from studio.services.studio import Studio
from studio.ui.finetune import (
    FORM,
    TASTE,
    adapters_json,
    choices_json,
    finetune_state,
    next_form,
    prompts_of,
    read_reward,
    run_json,
    verdict_json,
)
from studio.ui.routes import FOREVER, FRESH

MAX_LINES = 50_000  # a plan refuses more than 10,000 with a sentence
Short = Annotated[str, StringConstraints(max_length=200)]
Prompt = Annotated[str, StringConstraints(max_length=20_000)]


class StartBody(BaseModel):
    """A new run, as the form sends it."""

    name: Short
    prompts: Annotated[list[Prompt], Field(max_length=MAX_LINES)]
    reward: Short = TASTE
    model: Short
    minutes: float = 15.0
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    start: Short = ""
    settings: dict[Short, float | int | str] = Field(default_factory=dict)
    anyway: bool = False


class FormBody(BaseModel):
    """The form as it stands, kept while it is typed."""

    form: dict[Short, Any]


class AddBody(BaseModel):
    """A prompt that is sent to the tab."""

    prompt: Prompt


class VerdictBody(BaseModel):
    """Which epoch is judged (0: the result), and in how many pairs."""

    epoch: Annotated[int, Field(ge=0, le=10**6)] = 0
    pairs: Annotated[int, Field(ge=1, le=1000)] = 20


class KeepBody(BaseModel):
    """What is kept, and how strongly it is used."""

    epoch: Annotated[int, Field(ge=0, le=10**6)] = 0
    strength: float = 1.0
    name: Short = ""


def add_finetune_routes(app: FastAPI, studio: Studio) -> None:
    """Add the Fine-tune tab's addresses to the app."""
    app.include_router(form_routes(studio), prefix="/easel/finetune")
    app.include_router(run_routes(studio), prefix="/easel/finetune")
    app.include_router(verdict_routes(studio), prefix="/easel/finetune")


def form_routes(studio: Studio) -> APIRouter:
    """Return the routes that fill and keep the form."""
    router = APIRouter()

    @router.get("/state")
    def state(known: str = "", run: str = "", reward: str = TASTE) -> Response:
        now = finetune_state(studio, run, reward)
        if now["version"] == known:
            return Response(status_code=204, headers=FRESH)
        return JSONResponse(now, headers=FRESH)

    @router.get("/choices")
    def choices() -> Response:
        return JSONResponse(choices_json(studio), headers=FRESH)

    @router.get("/prompts")
    def prompts(source: str) -> Response:
        return JSONResponse({"prompts": prompts_of(studio, source)}, headers=FRESH)

    @router.post("/form")
    def form(body: FormBody) -> dict[str, Any]:
        studio.form.save(FORM, body.form)
        return {}

    @router.post("/prompts")
    def add(body: AddBody) -> dict[str, Any]:
        kept = studio.form.load(FORM)
        lines = str(kept.get("prompts", "")).splitlines()
        prompt = " ".join(body.prompt.split())
        if prompt and prompt not in lines:
            lines.append(prompt)
            studio.form.save(FORM, kept | {"prompts": "\n".join(lines).strip()})
        count = sum(1 for line in lines if line.strip())
        return {"sentence": f"In the prompts of the next fine-tuning, {count} in all."}

    return router


def run_routes(studio: Studio) -> APIRouter:
    """Return the routes of runs: begin, pause, go on, stop, look."""
    router, finetuning = APIRouter(), studio.finetuning

    @router.post("/start")
    def start(body: StartBody) -> dict[str, Any]:
        """Begin a run; a refusal is an answer like any other, in a sentence."""
        campaign, reward = read_reward(body.reward)
        plan = RunPlan(
            name=body.name,
            prompts=tuple(body.prompts),
            held_out=(),
            campaign=campaign,
            reward=reward,
            model=body.model,
            minutes=body.minutes,
            epochs=body.epochs,
            seed=body.seed,
            start=body.start,
            settings=body.settings,
        )
        try:
            return {"run": run_json(studio, finetuning.start(plan, anyway=body.anyway))}
        except EaselError as refusal:
            return {"refusal": str(refusal)}

    def doing(act: Callable[[str], Run]) -> Callable[[str], dict[str, Any]]:
        def done(run_id: str) -> dict[str, Any]:
            return run_json(studio, act(run_id))

        return done

    for verb in ("pause", "resume", "stop"):
        router.add_api_route(
            "/runs/{run_id}/" + verb, doing(getattr(finetuning, verb)), methods=["POST"]
        )

    @router.get("/runs/{run_id}/strip/{epoch}/{prompt}.png")
    def strip(run_id: str, epoch: int, prompt: int, seed: int = 0) -> Response:
        run = finetuning.get(run_id)
        sheet = finetuning.folder(run.id) / "pictures" / f"epoch-{max(0, epoch):04d}.png"
        cut = strip_picture(sheet, len(run.plan.held_out), prompt, seed)
        return Response(cut, 200, dict(FOREVER), "image/png")

    return router


def verdict_routes(studio: Studio) -> APIRouter:
    """Return the routes of a finished run: judge, keep, discard, go on, take along."""
    router, verdicts = APIRouter(), studio.verdicts

    @router.post("/runs/{run_id}/verdict")
    def begin(run_id: str, body: VerdictBody) -> dict[str, Any]:
        return verdict_json(studio, verdicts.begin(run_id, body.epoch, body.pairs))

    @router.get("/runs/{run_id}/verdicts/{number}/{place}/{side}.png")
    def pair(run_id: str, number: int, place: int, side: Literal["base", "tuned"]) -> Response:
        content = verdicts.picture(run_id, number, place, tuned=side == "tuned")
        return Response(content, 200, dict(FOREVER), "image/png")

    @router.post("/runs/{run_id}/keep")
    def keep(run_id: str, body: KeepBody) -> dict[str, Any]:
        kept = verdicts.keep(run_id, epoch=body.epoch, strength=body.strength, name=body.name[:60])
        return run_json(studio, kept)

    @router.post("/runs/{run_id}/discard")
    def discard(run_id: str) -> dict[str, Any]:
        return run_json(studio, verdicts.discard(run_id))

    @router.post("/runs/{run_id}/rate-on")
    def rate_on(run_id: str) -> dict[str, Any]:
        campaign = verdicts.rate_on(run_id)
        return {"sentence": f"“{campaign.name}” is on the Rate tab. Its pictures are being drawn."}

    @router.get("/runs/{run_id}/next")
    def following(run_id: str) -> Response:
        return JSONResponse(next_form(studio, run_id), headers=FRESH)

    @router.get("/runs/{run_id}/export.zip")
    def export(run_id: str, epoch: int = 0) -> Response:
        run, adapter = studio.finetuning.get(run_id), verdicts.adapter(run_id, epoch)
        judged = next((v for v in verdicts.all(run_id) if v.sha256 == adapter.sha256), None)
        card = model_card(
            run,
            adapter,
            studio.finetuning.epochs(run_id),
            verdicts.by_votes(judged) if judged else None,
            verdicts.by_reward(judged) if judged else None,
        )
        name = file_name(run.name)
        content = archive(card, adapter, studio.finetuning.folder(run_id), name)
        ascii_name = name.encode("ascii", "replace").decode().replace("?", "_")
        headers = {"Content-Disposition": f'attachment; filename="{ascii_name}.zip"'}
        return Response(content, 200, headers | dict(FRESH), "application/zip")

    @router.get("/adapters")
    def adapters() -> Response:
        return JSONResponse({"adapters": adapters_json(studio)}, headers=FRESH)

    return router
