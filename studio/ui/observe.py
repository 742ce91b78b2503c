"""What the page is told about jobs and pictures, as plain JSON values."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from studio.core.errors import EaselError
from studio.core.geometry import result_size
from studio.core.picture import Picture
from studio.core.request import MAX_COUNT, GenerationRequest
from studio.services.job_view import JobView
from studio.services.studio import Studio

PICTURE_RECIPE = (
    "prompt", "negative_prompt", "steps", "guidance_scale", "sampler", "eta", "model",
)  # fmt: skip


def studio_state(studio: Studio) -> dict[str, Any]:
    """Return all that the page shows of the running studio, and a `version` that names it."""
    queue = studio.generation.queue()
    latest = queue[0] if queue else studio.generation.latest()
    model = studio.status.model()
    newest = studio.gallery.page(limit=1)
    state = {
        "device": studio.status.device(),
        "model": {"phase": model.phase, "name": model.model, "sentence": model.sentence},
        "queue": [job_json(view) for view in queue],
        "background": studio.status.background(),
        "now": batch_json(studio, latest, queue) if latest else None,
        "newest": newest[0].id if newest else 0,
        "notes": list(studio.notes),
        "interrupted": [view.job.id for view in studio.generation.interrupted()],
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    return state | {"version": digest}


def batch_json(studio: Studio, view: JobView, queue: list[JobView]) -> dict[str, Any]:
    """Return a job with the pictures of its batch, or of its whole set, as they are now.

    Pictures that were binned since are left out; `count` is what there will be when all is drawn.
    """
    set_id = view.job.set_id
    if set_id:
        pictures = studio.gallery.panels(set_id)
        waiting = [other for other in queue if other.job.set_id == set_id]
    else:
        page = studio.gallery.page(job_id=view.job.id, limit=MAX_COUNT)
        pictures = sorted(page, key=lambda picture: picture.index)
        waiting = [] if view.over else [view]
    pending = sum(other.job.request.count - len(other.pictures) for other in waiting)
    width, height = _result_size(studio, view.job.request)
    return job_json(view) | {
        "width": width,
        "height": height,
        "pictures": [picture_json(picture) for picture in pictures],
        "count": len(pictures) + max(pending, 0),
    }


def _result_size(studio: Studio, request: GenerationRequest) -> tuple[int, int]:
    """Return the size that the pictures will have, so that their place is kept from the start."""
    try:
        return result_size(request, studio.sources.size(request.source) if request.source else None)
    except EaselError:  # the source is gone; the job itself says so
        return request.width, request.height


def job_json(view: JobView) -> dict[str, Any]:
    """Return one job; `preview` is an address that changes with every preview."""
    request = view.job.request
    preview = f"/easel/preview/{view.job.id}?v={view.version}" if view.preview else ""
    return {
        "id": view.job.id,
        "state": view.state,
        "label": view.job.label,
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "count": request.count,
        "position": view.position,
        "step": view.step,
        "steps": view.steps,
        "seconds_left": view.seconds_left,
        "doing": view.doing,
        "preview": preview,
        "notices": list(view.notices),
        "error": view.error,
        "details": view.details,
    }


def picture_json(picture: Picture) -> dict[str, Any]:
    """Return one picture with its recipe and what its artist thinks of it. No path goes out."""
    return {
        "id": picture.id,
        "job": picture.job_id,
        "seed": picture.seed,
        "width": picture.width,
        "height": picture.height,
        "seconds": picture.seconds,
        "created_at": picture.created_at,
        "sha256": picture.sha256,
        "starred": picture.starred,
        "rating": picture.rating,
        "deleted": picture.deleted_at is not None,
        "panel": picture.panel,
        "edit": edit_json(picture),
        "adapters": [[use.name, use.strength] for use in picture.request.adapters],
        **{name: getattr(picture.request, name) for name in PICTURE_RECIPE},
    }


def edit_json(picture: Picture) -> dict[str, Any] | None:
    """Return what an edited picture began from and where that lies in it, None for a drawing."""
    request = picture.request
    if not request.source:
        return None
    names = ("source", "mask", "strength", "extend", "resize_mode", "hires_scale")
    return {name: getattr(request, name) for name in names} | {"parent": picture.parent_id}
