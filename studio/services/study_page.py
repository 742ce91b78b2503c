"""A study as one HTML page that asks for nothing from anywhere, and as one tidy CSV table."""

from __future__ import annotations

import base64
import csv
import io
import time
from collections.abc import Callable, Iterator
from html import escape

from studio.core.words import counted
from studio.services.study import Example, Rate, Study

Thumbnail = Callable[[str], bytes | None]  # sha256 -> WebP bytes, None when the picture is gone
PLOT_WIDTH, PLOT_HEIGHT = 720, 120  # pixels
COLUMNS = ("section", "name", "other", "metric", "value", "low", "high", "n")
STYLE = """
:root { color-scheme: light dark; --ink: #1c1b1a; --soft: #6b6966; --line: #e2e0dc;
  --ground: #faf9f7; --accent: #b84a28; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #9a9a9a; --line: #2b2b2b;
  --ground: #101010; --accent: #e57b57; } }
body { max-width: 860px; margin: 40px auto; padding: 0 20px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0 0 4px; font-size: 26px; } h2 { margin: 38px 0 8px; font-size: 18px; }
p, figcaption { margin: 6px 0; } .soft, figcaption { color: var(--soft); }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th, td { padding: 5px 8px; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 400; }
svg { display: block; width: 100%; height: auto; } .bar { fill: var(--accent); }
.axis { stroke: var(--line); } .range { stroke: var(--accent); stroke-width: 2; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 22px; }
figure { margin: 0; } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.two img { width: 100%; border: 3px solid transparent; }
.two img.won { border-color: var(--accent); }
.flag { color: var(--accent); }
@media print { body { margin: 0; } figure, tr { break-inside: avoid; } }
"""


def study_html(study: Study, thumbnail: Thumbnail, made_at: float) -> str:
    """Return the whole page; `made_at` is in seconds since 1970. Pictures are inside it."""
    parts = (
        f"<h1>{escape(study.name)}</h1>",
        f'<p class="soft">Study report, {_day(made_at)}. {escape(_summary(study))}</p>',
        _contestants(study),
        _matrix(study),
        _over_time(study),
        _agreement(study),
        _examples(study.examples, thumbnail),
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(study.name)} · Easel study</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def study_csv(study: Study) -> str:
    """Return the same figures, one a line: section, name, other, metric, value, low, high, n."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in _csv_rows(study):
        table.writerow([_cell(value) for value in row])
    return stream.getvalue()


def _csv_rows(study: Study) -> Iterator[tuple]:
    tally = study.tally
    for metric in ("votes", "ties", "both_bad", "skips", "raters", "repeats", "held_out", "undone"):
        yield ("campaign", study.name, "", metric, getattr(tally, metric), "", "", "")
    for row in study.contestants:
        yield ("contestant", row.label, "", "win_rate_raw", *_values(row.raw))
        yield ("contestant", row.label, "", "win_rate_bradley_terry", *_values(row.fitted))
        limits = (row.strength_low, row.strength_high, row.raw.n)
        yield ("contestant", row.label, "", "strength_logits", row.strength, *limits)
        for metric in ("wins", "ties", "losses"):
            yield ("contestant", row.label, "", metric, getattr(row, metric), "", "", row.raw.n)
    for (name, other), rate in sorted(study.beats.items()):
        yield ("against", name, other, "win_rate_raw", *_values(rate))
    for start, votes in study.per_period:
        yield ("time", _minute(start), "", "votes", votes, "", "", "")
    if study.alpha is not None:
        yield ("agreement", "", "", "krippendorff_alpha", *_values(study.alpha))
    for row in study.raters:
        yield ("rater", row.name, "", "votes", row.votes, "", "", "")
        yield ("rater", row.name, "", "median_ms", row.median_ms, "", "", row.votes)
        yield ("rater", row.name, "", "left_share", *_values(row.left_share))
        yield ("rater", row.name, "", "self_consistency", *_values(row.self_consistency))
        for flag in row.flags:
            yield ("rater", row.name, flag, "flag", 1, "", "", "")


def _values(rate: Rate) -> tuple[float, float, float, int]:
    return rate.value, rate.low, rate.high, rate.n


def _cell(value: object) -> object:
    """Round numbers; text that a spreadsheet would run as a formula gets an apostrophe before."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _summary(study: Study) -> str:
    tally = study.tally
    return (
        f"{counted(tally.votes, 'vote')} by {counted(tally.raters, 'rater')}: "
        f"{tally.left + tally.right:,} decisive, {counted(tally.ties, 'tie')}, "
        f"{counted(tally.both_bad, 'time')} both bad; {tally.skips:,} skipped, "
        f"{tally.undone:,} taken back."
    )


def _contestants(study: Study) -> str:
    if not study.contestants:
        return (
            "<h2>Contestants</h2><p>No two different contestants were compared, so there is "
            "nobody to rank: the campaign asks about single pictures.</p>"
        )
    head = ("", "Won", "Tied", "Lost", "Win rate, raw", "Win rate, Bradley-Terry", "Strength")
    rows = [
        (
            escape(row.label), row.wins, row.ties, row.losses, _percent(row.raw),
            _percent(row.fitted),
            f"{row.strength:+.2f} ({row.strength_low:+.2f} to {row.strength_high:+.2f})",
        )
        for row in study.contestants
    ]  # fmt: skip
    ties = f" Raters call a tie with nu = {study.nu:.2f}." if study.nu else ""
    return (
        f"<h2>Contestants</h2>{_table(head, rows)}{_forest(study)}"
        '<p class="soft">Win rate: share of its comparisons that it won, a tie as half; 50 % is '
        "even. Raw counts what was shown (Wilson interval); Bradley-Terry allows for who met whom, "
        f"with ties after Davidson.{ties} All intervals are 95 % and take votes as independent. "
        "Pairs that were asked twice count once; “both bad” and skips rank nobody.</p>"
    )


def _forest(study: Study) -> str:
    """Draw each contestant's fitted win rate with its interval against the even line."""
    height, step = 26 * len(study.contestants) + 22, 26
    lines = []
    for at, row in enumerate(study.contestants):
        y = 14 + at * step
        low, value, high = (_place(v) for v in (row.fitted.low, row.fitted.value, row.fitted.high))
        lines.append(
            f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="bar" cx="{value:.1f}" cy="{y}" r="4.5"/>'
            f'<text x="0" y="{y + 5}" font-size="13" fill="currentColor">'
            f"{escape(row.label[:28])}</text>"
        )
    middle = _place(0.5)
    return (
        f'<svg viewBox="0 0 {PLOT_WIDTH} {height}" role="img" aria-label="Win rates">'
        f'<line class="axis" x1="{middle}" x2="{middle}" y1="0" y2="{height - 18}"/>'
        f'<text x="{middle}" y="{height - 4}" font-size="12" text-anchor="middle" '
        f'fill="currentColor" opacity="0.6">50 %</text>{"".join(lines)}</svg>'
    )


def _place(share: float) -> float:
    """Return the x of a share in the forest plot, whose labels take the left 200 pixels."""
    return 210 + (PLOT_WIDTH - 220) * share


def _matrix(study: Study) -> str:
    names = [row.label for row in study.contestants]
    if len(names) < 2:
        return ""
    rows = [
        (escape(name), *(_met(study.beats.get((name, other))) for other in names)) for name in names
    ]
    return f"<h2>Who was preferred to whom</h2>{_table(('', *map(escape, names)), rows)}"


def _met(rate: Rate | None) -> str:
    return "" if rate is None else f"{_percent(rate)}<br>of {rate.n:,}"


def _over_time(study: Study) -> str:
    if not study.per_period:
        return "<h2>Votes over time</h2><p>No votes yet.</p>"
    most = max(votes for _, votes in study.per_period) or 1
    width = PLOT_WIDTH / len(study.per_period)
    bars = "".join(
        f'<rect class="bar" x="{at * width + 1:.1f}" width="{max(width - 2, 1):.1f}" '
        f'y="{PLOT_HEIGHT - 100 * votes / most:.1f}" height="{100 * votes / most:.1f}">'
        f"<title>{_minute(start)}: {votes:,}</title></rect>"
        for at, (start, votes) in enumerate(study.per_period)
    )
    first, last = _minute(study.per_period[0][0]), _minute(study.per_period[-1][0])
    return (
        f'<h2>Votes over time</h2><svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" role="img" '
        f'aria-label="Votes over time">{bars}</svg>'
        f'<p class="soft">From {first} to {last}; the highest bar has {counted(most, "vote")}.</p>'
    )


def _agreement(study: Study) -> str:
    head = ("", "Votes", "Ties", "Both bad", "Median", "Left side", "Agrees with itself")
    rows = [
        (
            escape(row.name), f"{row.votes:,}", f"{row.ties:,}", f"{row.both_bad:,}",
            f"{row.median_ms / 1000:.1f} s", _percent(row.left_share),
            _percent(row.self_consistency) if row.self_consistency.n else "none decided twice yet",
        )
        for row in study.raters
    ]  # fmt: skip
    if study.alpha is not None and study.alpha.n:
        between = (
            f"Between raters: Krippendorff's alpha {study.alpha.value:.2f} "
            f"({study.alpha.low:.2f} to {study.alpha.high:.2f}) over {study.alpha.n:,} pairs that "
            "several judged; 0 is chance, 1 is full agreement."
        )
    else:
        between = "Between raters: no pair was judged by two raters yet."
    flags = "".join(
        f'<p class="flag">{escape(row.name)}: {escape(flag)} The votes stay; judge yourself.</p>'
        for row in study.raters
        for flag in row.flags
    )
    return f"<h2>Agreement</h2>{_table(head, rows)}<p>{between}</p>{flags}"


def _examples(examples: tuple[Example, ...], thumbnail: Thumbnail) -> str:
    figures = []
    for example in examples:
        left, right = thumbnail(example.left), thumbnail(example.right)
        if left is None or right is None:
            continue
        words = {"left": "left preferred", "right": "right preferred", "tie": "a tie"}
        sides = f"{example.left_label or 'unknown'} | {example.right_label or 'unknown'}"
        figures.append(
            f'<figure><div class="two">{_image(left, example.choice == "left")}'
            f"{_image(right, example.choice == 'right')}</div>"
            f"<figcaption>{escape(example.prompt[:200]) or 'No prompt'}<br>{escape(sides)}: "
            f"{words[example.choice]}</figcaption></figure>"
        )
    return f'<h2>Examples</h2><div class="pairs">{"".join(figures)}</div>' if figures else ""


def _image(webp: bytes, won: bool) -> str:
    encoded = base64.b64encode(webp).decode()
    mark = ' class="won"' if won else ""
    return f'<img{mark} alt="" src="data:image/webp;base64,{encoded}">'


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _percent(rate: Rate) -> str:
    if not rate.n:
        return "no figure yet"
    return f"{rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%})"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
