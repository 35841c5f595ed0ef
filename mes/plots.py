"""Plots as SVG that is as wide as its place: positions in percent, letters in pixels, so they read on a phone and on paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mes.markup import Safe, joined, tag
from mes.present import count, whole

_ABOVE, _BELOW = 12, 20  # pixels for the uppermost number and the names below


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a plot against its target; `name` stands below it."""

    name: str
    value: int
    target: float | None


def columns(shown: Sequence[Column], title: str, height: int = 200) -> Safe:
    """Columns beside one another, each with its target as a line across. Those that miss it are hollow, not only paler."""
    step, steps = _scale(max([column.value for column in shown] + [column.target or 0 for column in shown], default=0))
    low = height - _BELOW

    def y(value: float) -> float:
        return round(low - (low - _ABOVE) * value / (step * steps), 1)

    wide = 100 / max(1, len(shown))
    ticks = [step * n for n in range(steps + 1)]
    axis = tag(
        "svg", (tag("text", count(round(tick)), x="100%", y=y(tick) + 4, text_anchor="end") for tick in ticks),
        class_="axis", height=height, aria_hidden="true",
    )  # fmt: skip
    grid = [tag("line", class_="grid", x1="0", x2="100%", y1=y(tick), y2=y(tick)) for tick in ticks]
    drawn = [_column(column, n * wide, wide, y, low) for n, column in enumerate(shown)]
    names = [
        tag("text", column.name, x=f"{(n + 0.5) * wide:.3f}%", y=height - 5, text_anchor="middle", class_="between" if n % 4 else None)
        for n, column in enumerate(shown)
    ]
    body = tag("svg", tag("title", title), grid, drawn, names, class_="body", height=height, role="img", aria_label=title)
    return tag("div", axis, body, class_="plot")


def _column(column: Column, at: float, wide: float, y: Callable[[float], float], low: float) -> Safe:
    is_short = column.target is not None and column.value < column.target
    top = y(column.value)
    words = tag("title", f"{column.name}: {count(column.value)} good of {whole(column.target)}")
    bar = tag(
        "rect", words, class_="short" if is_short else "made",
        x=f"{at + wide * 0.12:.3f}%", width=f"{wide * 0.76:.3f}%", y=top, height=round(low - top, 1),
    )  # fmt: skip
    aim = None
    if column.target:
        aim = tag("line", class_="aim", x1=f"{at:.3f}%", x2=f"{at + wide:.3f}%", y1=y(column.target), y2=y(column.target))
    return joined((bar, aim))


def bar(part: float | None, of: float, class_: str = "made") -> Safe:
    """A bar along a row: `part` of the longest one, `of`."""
    share = 0.0 if not part or not of else max(0.0, min(1.0, part / of))
    return tag("svg", tag("rect", class_=class_, width=f"{100 * share:.2f}%", height="100%"), class_="bar", aria_hidden="true")


def _scale(highest: float) -> tuple[float, int]:
    """A round step and how many of them reach the highest value: two to five."""
    if highest <= 0:
        return 1, 1
    size = 10 ** math.floor(math.log10(highest))
    step = next(size * part for part in (0.2, 0.25, 0.5, 1, 2, 2.5) if highest <= 5 * size * part)
    step = max(step, 1)
    return step, math.ceil(highest / step - 1e-9)
