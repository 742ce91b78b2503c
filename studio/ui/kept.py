"""The form as it is kept: newest values win, and what a command replaced can be brought back.

The page sends all its controls at once, and may have sent them before the answer to an earlier
click arrived. So the kept form counts turns: each answer of a handler that sets controls is one,
and carries its number to the page. What a page sends loses where a handler set a field in a turn
that this page has not seen yet.

When a command puts other texts or another source into the form, the form before is kept as well,
with what was painted if that is replaced too.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from studio.services.studio import Studio
from studio.ui.controls import EXTENDED
from studio.ui.editor import painted_mask

FORM = "txt2img"  # name under which the form is kept; the first tab once had one of its own
EARLIER = "earlier"  # name under which the earlier forms are kept
MOST_EARLIER = 12  # forms
MOST_CHARACTERS = 500_000  # of all of them as JSON
TEXTS = ("prompt", "negative_prompt", "extend_prompt")
CHOICES = ("preset", "panels", "source", *EXTENDED)
PAGE_ALONE = ("turn", "shape")
Values = Mapping[str, Any]


@dataclass(frozen=True)
class KeptForm:
    """The one form of the drawing tabs in the data folder, and those that it replaced."""

    studio: Studio

    def load(self) -> dict[str, Any]:
        """Return the form as it was left."""
        return self.studio.form.load(FORM)

    def save(self, values: Values, changed: Collection[str] = ()) -> dict[str, Any]:
        """Keep what a page sent, with what a handler `changed` in it; return what is kept now."""
        return self.studio.form.change(FORM, lambda saved: merged(saved, values, changed))

    def put_aside(self, values: Values, changes: Values, mask: str = "") -> str:
        """Keep the form before `changes`, if they take away something; return its key or ''.

        With a `mask` to come the one that is painted over the form's source is kept too.
        """
        painted = painted_mask(self.studio, changes.get("source", "")) if mask else ""
        replaced = painted if painted != mask else ""
        if not (replaced or takes_away(values, changes)):
            return ""
        key = uuid.uuid4().hex
        form = {name: value for name, value in values.items() if name not in PAGE_ALONE}
        entry = {"key": key, "at": time.time(), "form": form, "mask": replaced}

        def added(saved: dict[str, Any]) -> dict[str, Any]:
            others = [e for e in saved.get("forms", []) if not _alike(e["form"], form)]
            forms = [entry, *others][:MOST_EARLIER]
            while len(forms) > 1 and len(json.dumps(forms)) > MOST_CHARACTERS:
                forms.pop()
            return {"forms": forms}

        self.studio.form.change(EARLIER, added)
        return key

    def take_back(self, key: str) -> tuple[dict[str, Any], str] | None:
        """Return an earlier form and the mask that was replaced with it; None when it is gone."""
        found = next((entry for entry in self._earlier() if entry["key"] == key), None)
        if found is None:
            return None

        def taken(saved: dict[str, Any]) -> dict[str, Any]:
            return {"forms": [e for e in saved.get("forms", []) if e["key"] != key]}

        self.studio.form.change(EARLIER, taken)
        return found["form"], found["mask"]

    def earlier(self) -> list[dict[str, Any]]:
        """Return what the page lists of the earlier forms, the newest first."""
        return [
            {
                "key": entry["key"],
                "prompt": str(entry["form"].get("prompt") or "")[:200],
                "task": entry["form"].get("task"),
                "source": entry["form"].get("source") or "",
            }
            for entry in self._earlier()
        ]

    def _earlier(self) -> list[dict[str, Any]]:
        return self.studio.form.load(EARLIER).get("forms", [])


def merged(saved: Values, sent: Values, changed: Collection[str]) -> dict[str, Any]:
    """Return the form to keep: `sent`, except for what was set since the page last heard of it."""
    turn, seen = turn_of(saved), turn_of(sent)
    set_at = dict(saved.get("set_at") or {})
    late = {n for n, at in set_at.items() if at > seen and n not in changed and n in saved}
    form = {**sent, **{name: saved[name] for name in late}}
    if changed:
        turn += 1
        set_at |= dict.fromkeys(changed, turn)
    return form | {"turn": str(turn), "set_at": set_at}


def missed(sent: Values, kept: Values) -> dict[str, Any]:
    """Return what a page does not know yet of the form that is kept now, its turn included."""
    seen = turn_of(sent)
    late = {n: kept[n] for n, at in (kept.get("set_at") or {}).items() if at > seen and n in kept}
    return late | {"turn": kept["turn"]} if late else {}


def turn_of(form: Values) -> int:
    """Return the last turn that a form knows, 0 for one that never heard of any."""
    turn = str(form.get("turn") or "")
    return int(turn) if turn.isdecimal() else 0


def takes_away(values: Values, changes: Values) -> bool:
    """Whether changes remove a text, a choice, a source or a frame that stands in the form."""
    texts = {name: str(values.get(name) or "").strip() for name in TEXTS if name in changes}
    if any(text and text not in str(changes[name] or "") for name, text in texts.items()):
        return True
    return any(values.get(n) and changes[n] != values[n] for n in CHOICES if n in changes)


def _alike(one: Values, other: Values) -> bool:
    return all(one.get(name) == other.get(name) for name in (*TEXTS, *CHOICES))
