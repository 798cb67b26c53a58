"""The frame of a report: one HTML document with its style inside, tables, and pictures as PNG data."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6877; --line: #d9dee6; --back: #fcfcfd;
  --card: #ffffff; --note: #fff4e0; --mark: #eaf0ff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa5b5; --line: #343c49;
  --back: #14181f; --card: #1b212a; --note: #3a2f1a; --mark: #23304f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 860px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
h3 { font-size: .9rem; font-weight: 500; margin: 1rem 0 .3rem; }
.lead { color: var(--soft); margin-top: 0; } .note { background: var(--note); padding: .5rem .8rem; border-radius: 6px; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; } .facts div { background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: .5rem .9rem; min-width: 6.5rem; }
.facts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.facts span, figcaption { color: var(--soft); font-size: .85rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .cell { fill: #fff; font-weight: 600; paint-order: stroke; stroke: #0006; stroke-width: 2px; }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .dashed { stroke-width: 1.4; stroke-dasharray: 5 4; }
svg .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; color: var(--soft); margin: .2rem 0 0 4.6rem; }
.key i { display: inline-block; width: 1rem; margin-right: .4rem; vertical-align: middle; }
.key .swatch { height: .7rem; background: var(--c); border-radius: 2px; } .key .dash { border-top: 2px dashed var(--c); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: right; padding: .28rem .6rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; min-width: 9rem; }
tr:has(:nth-child(5)) td:first-child { min-width: 0; }
tr.marked { background: var(--mark); font-weight: 600; }
@media (max-width: 560px) { body { margin: 1rem auto; } svg text { font-size: 18px; } table { font-size: .8rem; }
  th, td { padding: .25rem .3rem; } td:first-child { min-width: 6rem; }
  :is(th, td):nth-child(6) { white-space: normal; }
  td:nth-child(2):last-child { white-space: normal; overflow-wrap: anywhere; } }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .8rem; }
.pictures figure { margin: 0; } .pictures img { width: 100%; border-radius: 6px; }
.pictures img.small { image-rendering: pixelated; }
"""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole document; `sections` are HTML, `title` and `lead` plain text."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>\n"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>\n'
        + "\n".join(part for part in sections if part)
        + "\n</body></html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A heading over HTML parts; nothing without any."""
    return f"<h2>{escape(heading)}</h2>" + "".join(parts) if any(parts) else ""


def facts(values: Mapping[str, str]) -> str:
    """Big numbers with their names."""
    cards = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values.items()
    )
    return f'<div class="facts">{cards}</div>'


def notes(texts: Iterable[str]) -> str:
    """Warnings, one a line."""
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
    """Plain text cells; marked: the index of the row that stands out."""

    def row(cells: Sequence[str], tag: str, name: str = "") -> str:
        inner = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        return f'<tr class="{name}">{inner}</tr>' if name else f"<tr>{inner}</tr>"

    body = "".join(row(cells, "td", "marked" if i == marked else "") for i, cells in enumerate(rows))
    return f'<div class="scroll"><table>{row(head, "th")}{body}</table></div>'


def gallery(pictures: Mapping[str, Any] | Sequence[Any] | None) -> str:
    """Pictures with their captions: {caption: picture}, {row: {caption: picture}} or a list; see :func:`png`."""
    if pictures is None or not len(pictures):
        return ""
    named = list(pictures.items() if isinstance(pictures, Mapping) else (("", one) for one in pictures))
    if isinstance(named[0][1], Mapping):
        most = max(len(row) for _, row in named)
        rows = (f"<h3>{escape(str(title))}</h3>{_figures(row.items(), most)}" for title, row in named)
        return "".join(rows)
    return _figures(named)


def _figures(named: Iterable[tuple[Any, Any]], columns: int = 0) -> str:
    """Pictures beside each other; columns: so many have a place in a row, 0: as many as fit."""
    figures = []
    for caption, picture in named:
        data, width = png(picture)
        small = ' class="small"' if width < 128 else ""
        figures.append(
            f'<figure><img{small} alt="{escape(str(caption))}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(str(caption))}</figcaption></figure>"
        )
    style = f' style="grid-template-columns: repeat({columns}, 1fr)"' if columns else ""
    return f'<div class="pictures"{style}>{"".join(figures)}</div>'


def png(picture: Any) -> tuple[str, int]:
    """(base64 of a PNG, width in pixels) of a PIL image or a uint8 array [H, W, 3]; else TypeError, ValueError."""
    from PIL import Image

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(
                "pictures: an array must be uint8 of shape [H, W, 3], "
                f"got {picture.dtype} of {list(picture.shape)}"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"pictures must be PIL images or uint8 arrays [H, W, 3], got {type(picture).__name__}"
        )
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii"), picture.width
