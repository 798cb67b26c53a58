"""A chart as inline SVG: lines, points, bars and levels over two axes. Text and axes take the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

WIDTH = 760
"""How wide charts and strips are, in the units of their drawing."""

SIZES = ("#3b4cc0", "#6f9bf5", "#f2a07b", "#c2442f", "#7d2248")
"""From the finest patch size to the coarsest: cold to warm, told apart without red and green."""

Point = tuple[float, float]


def size_colour(scale: int, scales: Sequence[int]) -> str:
    """The colour of one patch size among all of a run's."""
    return SIZES[min(list(scales).index(scale), len(SIZES) - 1)] if scale in scales else "#888888"


class Chart:
    """Marks are added in data units; `svg()` lays them out. log: of the y axis, where values <= 0 are left out.

    Args:
        title: read out by screen readers, not drawn.
        whole: ticks of the x axis on whole numbers only.
        steps: so many steps span the x axis, as in a strip; None: it spans what is drawn.
        across: values that the x axis spans too.
    """

    LEFT, RIGHT, TOP, BOTTOM = 74, 24, 12, 40

    def __init__(
        self,
        title: str,
        x_label: str,
        y_label: str,
        *,
        height: int = 230,
        log: bool = False,
        whole: bool = True,
        steps: int | None = None,
        across: Sequence[float] = (),
    ) -> None:
        self.title, self.x_label, self.y_label = title, x_label, y_label
        self.height, self.log, self.whole, self.steps = height, log, whole, steps
        self._across = list(across)
        self._marks: list[tuple[str, list[Point], str, str]] = []
        self._legend: list[tuple[str, str, bool]] = []

    def line(self, points: Iterable[Point], colour: str, label: str = "") -> None:
        """Points joined in their order."""
        self._add("line", points, colour, "", label)

    def dot(self, point: Point, colour: str, hint: str, *, label: str = "", marked: bool = False) -> None:
        """One point; hint: shown by browsers under the pointer; marked: ringed."""
        self._add("ring" if marked else "dot", [point], colour, hint, label)

    def bar(self, x: float, height: float, colour: str, hint: str) -> None:
        """A bar of width 1 around x, from 0."""
        self._add("bar", [(x - 0.5, 0.0), (x + 0.5, height)], colour, hint, "")

    def level(self, y: float, colour: str, label: str = "") -> None:
        """A dashed horizontal line."""
        self._add("level", [(math.nan, y)], colour, "", label)

    def rule(self, x: float, colour: str, label: str = "") -> None:
        """A dashed vertical line."""
        self._add("rule", [(x, math.nan)], colour, "", label)

    @property
    def empty(self) -> bool:
        """Whether there is no point to draw."""
        return not any(kind not in ("level", "rule") for kind, *_ in self._marks)

    def svg(self) -> str:
        """The chart as an `<svg>` element."""
        left, right = self.LEFT, WIDTH - self.RIGHT
        top, bottom = self.TOP, self.height - self.BOTTOM
        drawn = [x for _, points, *_ in self._marks for x, _ in points]
        x_low, x_high = _range([*drawn, *self._across], pad=0.02)
        if self.steps:
            x_low, x_high = -0.5, self.steps - 0.5
        y_values = [self._y(y) for _, points, *_ in self._marks for _, y in points]
        y_low, y_high = _range(y_values, pad=0.06)
        if any(kind == "bar" for kind, *_ in self._marks):
            y_low = 0.0

        def place(point: Point) -> Point:
            x, y = point
            return (
                left + (x - x_low) / (x_high - x_low) * (right - left),
                bottom - (self._y(y) - y_low) / (y_high - y_low) * (bottom - top),
            )

        parts = [f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(self.title)}">']
        for value, text in _log_ticks(y_low, y_high) if self.log else _ticks(y_low, y_high):
            y = bottom - (value - y_low) / (y_high - y_low) * (bottom - top)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick end" x="{left - 6}" y="{y + 4:.1f}">{text}</text>')
        for value, text in _ticks(x_low, x_high, whole=self.whole):
            x = left + (value - x_low) / (x_high - x_low) * (right - left)
            parts.append(f'<text class="tick mid" x="{x:.1f}" y="{bottom + 16}">{text}</text>')
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        box = (left, right, top, bottom)
        parts += [_mark(kind, points, colour, hint, place, box) for kind, points, colour, hint in self._marks]
        parts.append(
            f'<text class="label mid" x="{(left + right) / 2}" y="{self.height - 6}">{escape(self.x_label)}</text>'
        )
        middle = (top + bottom) / 2
        parts.append(
            f'<text class="label mid" transform="translate(13 {middle}) rotate(-90)">{escape(self.y_label)}</text>'
        )
        return "".join(parts) + "</svg>" + self._key()

    def draw(self, axis: Any) -> None:
        """The same chart on an axis of matplotlib."""
        for kind, points, colour, _ in self._marks:
            if kind == "bar":
                (left, _), (right, height) = points
                axis.bar(
                    (left + right) / 2, height, right - left, color=colour, edgecolor="white", linewidth=0.6
                )
            elif kind in ("level", "rule"):
                line = axis.axhline if kind == "level" else axis.axvline
                line(points[0][kind == "level"], color=colour, linestyle="--", linewidth=1)
            else:
                style = {"linewidth": 1.4} if kind == "line" else {"marker": "o", "markersize": 3}
                axis.plot(*zip(*points, strict=True), color=colour, **style)
        if self.log:
            axis.set_yscale("log")
        axis.set_xlabel(self.x_label)
        axis.set_ylabel(self.y_label)
        axis.spines[["top", "right"]].set_visible(False)

    def _add(self, kind: str, points: Iterable[Point], colour: str, hint: str, label: str) -> None:
        vertical = kind == "rule"
        kept = [
            (x, y)
            for x, y in points
            if (math.isfinite(x) or kind == "level")
            and (vertical or (math.isfinite(y) and not (self.log and y <= 0)))
        ]
        if kept:
            self._marks.append((kind, kept, colour, hint))
            entry = (label, colour, kind in ("level", "rule"))
            if label and entry not in self._legend:
                self._legend.append(entry)

    def _y(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _key(self) -> str:
        if not self._legend:
            return ""
        entries = "".join(
            f'<span><i class="{"dash" if dashed else "swatch"}" style="--c:{colour}"></i>{escape(label)}</span>'
            for label, colour, dashed in self._legend
        )
        return f'<div class="key">{entries}</div>'


def strip(scales: Sequence[int], colours: Sequence[str], hints: Sequence[str]) -> str:
    """One cell a step, in the colour of its size and with its number where there is room."""
    cell = (WIDTH - Chart.LEFT - Chart.RIGHT) / max(len(scales), 1)
    parts = [f'<svg viewBox="0 0 {WIDTH} 34" role="img" aria-label="patch size of each step">']
    for index, (scale, colour, hint) in enumerate(zip(scales, colours, hints, strict=True)):
        x = Chart.LEFT + index * cell
        number = (
            f'<text class="cell mid" x="{x + cell / 2:.1f}" y="22">{scale or "–"}</text>'
            if cell >= 18 and scale > 0
            else ""
        )
        parts.append(
            f'<g><title>{escape(hint)}</title><rect x="{x + 0.5:.1f}" y="3" width="{max(cell - 1, 0.5):.1f}" '
            f'height="28" rx="2" fill="{colour}"/>{number}</g>'
        )
    return "".join(parts) + "</svg>"


def size_name(scale: int, uncomputed: str = "skipped") -> str:
    """In words; 0 stands for a step that was skipped or forecast, as `uncomputed` says."""
    return f"scale {scale}" if scale else uncomputed


def _mark(kind: str, points: list[Point], colour: str, hint: str, place, box: tuple) -> str:
    left, right, top, bottom = box
    title = f"<title>{escape(hint)}</title>" if hint else ""
    if kind == "line":
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    if kind == "level":
        _, y = place((0.0, points[0][1]))
        return f'<line class="dashed" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>'
    if kind == "rule":
        x = place((points[0][0], 1.0))[0]
        return f'<line class="dashed" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{colour}"/>'
    if kind == "bar":
        (x0, y0), (x1, y1) = map(place, points)
        return (
            f'<rect x="{x0 + 0.5:.1f}" y="{y1:.1f}" width="{max(x1 - x0 - 1, 0.5):.1f}" '
            f'height="{max(y0 - y1, 0):.1f}" fill="{colour}">{title}</rect>'
        )
    x, y = place(points[0])
    radius = 4.5 if box[3] > 250 else 3  # smaller in the low charts, whose points are joined
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="9"/>' if kind == "ring" else ""
    return f'{ring}<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}">{title}</circle>'


def _range(values: list[float], pad: float) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    width = (high - low) or abs(high) or 1.0
    return low - pad * width, high + pad * width


def _ticks(low: float, high: float, *, whole: bool = False) -> list[tuple[float, str]]:
    """About five round numbers between low and high."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5.5)
    if whole:
        step = max(1.0, float(round(step)))
    first = math.ceil(low / step - 1e-9)
    values = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:g}" if abs(value) > step * 1e-6 else "0") for value in values]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten, with 2 and 5 between them where there are few; low and high are logarithms."""
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    values = [
        (power + math.log10(factor), f"{factor * 10.0**power:g}")
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    return [(value, text) for value, text in values if low <= value <= high]
