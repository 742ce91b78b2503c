"""The Teach tab: one place, which `assets/page/teach.js` fills; and what it is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from studio.core.errors import NotFoundError
from studio.core.lesson import FEWEST_PICTURES, MOST_PICTURES, Lesson
from studio.services.studio import Studio
from studio.ui.places import place

LISTED = 20  # lessons


def build_teach() -> None:
    """Build the tab's one place."""
    place("easel-teach")


def teach_state(studio: Studio, shown: str = "") -> dict[str, Any]:
    """Return all that the tab shows, and a `version` that names it.

    `shown` is the lesson that is looked at; without one it is the newest that has begun.
    """
    teaching = studio.teaching
    lessons = teaching.all()[:LISTED]
    looked_at = next((one for one in lessons if one.id == shown), None)
    looked_at = looked_at or (lessons[0] if lessons else None)
    draft = teaching.draft()
    state = {
        "draft": asdict(draft),
        "lesson": lesson_json(studio, looked_at) if looked_at else None,
        "lessons": [{"id": one.id, "name": one.name, "state": one.state} for one in lessons],
        "models": [
            {"value": entry.name, "title": entry.title}
            for entry in studio.models.entries()
            if not entry.problem
        ],
        "fewest": FEWEST_PICTURES,
        "most": MOST_PICTURES,
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    return state | {"version": digest}


def lesson_json(studio: Studio, lesson: Lesson) -> dict[str, Any]:
    """Return a lesson with where it is, its loss and its samples."""
    teaching = studio.teaching
    return {
        "id": lesson.id,
        "name": lesson.name,
        "trigger": lesson.trigger,
        "model": lesson.model,
        "minutes": lesson.minutes,
        "pictures": len(lesson.pictures),
        "state": lesson.state,
        "sentence": lesson.sentence,
        "ending": teaching.is_ending(lesson.id),
        "progress": asdict(teaching.progress(lesson.id)),
        "notices": list(teaching.notices(lesson.id)),
        "curve": teaching.curve(lesson.id),
        "samples": teaching.samples(lesson.id),
        "adapter": _adapter(studio, lesson),
    }


def _adapter(studio: Studio, lesson: Lesson) -> dict[str, str] | None:
    """Return the adapter that came of a lesson, None when it is not there (any more)."""
    try:
        entry = studio.teaching.adapter(lesson.id)
    except NotFoundError:
        return None
    return {"name": entry.name, "sha256": entry.sha256}
