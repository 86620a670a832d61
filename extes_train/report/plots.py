"""Inline SVG: lines over steps or seconds, bars. Colours are classes of page.css, so a plot follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from extes_train.report.table import short

TUNINGS = ("full", "lora", "dora", "qlora", "adapter")
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 120, 12, 40
WIDTH, HEIGHT = 720, 300
BAR, GAP = 18, 10  # of a bar plot


@dataclass(frozen=True)
class Series:
    """A line: points (x, y), named `name`, coloured by tuning, dashed with alternatives."""

    name: str
    tuning: str
    augmentation: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One bar of a plot."""

    name: str
    tuning: str
    augmentation: str
    value: float


def style(tuning: str, augmentation: str) -> str:
    """Class names: the tuning's colour, and the look of the augmentation."""
    known = tuning if tuning in TUNINGS else "other"
    return f"t-{known} a-{'none' if augmentation == 'none' else 'dri'}"


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Moving average over about a thirtieth of the points, at most 400 of them kept."""
    half = len(points) // 60
    result = []
    for i in range(0, len(points), max(1, len(points) // 400)):
        part = points[max(0, i - half) : i + half + 1]
        result.append((points[i][0], sum(y for _, y in part) / len(part)))
    return result


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between `low` and `high`, about `count` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_plot(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Lines with axes, a name at each line's end, and the values in tooltips; a note where there are no points."""
    drawn = [one for one in series if len(one.points) >= 2]
    if not drawn:
        return '<p class="note">No curve was recorded.</p>'
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    x_low, x_high = min(0.0, *xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    pad = 0.05 * (y_high - y_low or abs(y_high) or 1.0)
    y_low, y_high = y_low - pad, y_high + pad
    right, bottom = WIDTH - MARGIN_RIGHT, HEIGHT - MARGIN_BOTTOM

    def to_x(x: float) -> float:
        return MARGIN_LEFT + (x - x_low) / ((x_high - x_low) or 1) * (right - MARGIN_LEFT)

    def to_y(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - MARGIN_TOP)

    parts = [_opened(WIDTH, HEIGHT, f"{y_label} over {x_label}")]
    for tick in ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{MARGIN_LEFT}" x2="{right}" y1="{to_y(tick):.1f}" y2="{to_y(tick):.1f}"/>'
        )
        parts.append(_label(MARGIN_LEFT - 8, to_y(tick) + 4, f"{tick:g}", "end"))
    for tick in ticks(x_low, x_high):
        parts.append(_label(to_x(tick), bottom + 18, short(tick) if tick else "0", "middle"))
    parts.append(f'<line class="axis" x1="{MARGIN_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(_label((MARGIN_LEFT + right) / 2, HEIGHT - 4, x_label, "middle"))
    for one in drawn:
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in one.points)
        title = f"{one.name}: {one.points[0][1]:.3f} to {one.points[-1][1]:.3f}"
        parts.append(
            f'<polyline class="line {style(one.tuning, one.augmentation)}" points="{path}">'
            f"<title>{escape(title)}</title></polyline>"
        )
    parts += _end_labels(drawn, to_x, to_y)
    return "".join(parts) + "</svg>"


def _end_labels(series: Sequence[Series], to_x: Callable[[float], float], to_y: Callable[[float], float]) -> list[str]:
    """A dash of the line and its name at the right, moved apart where ends lie close."""
    wanted = sorted((to_y(one.points[-1][1]), i) for i, one in enumerate(series))
    gap = min(15.0, (HEIGHT - MARGIN_TOP - MARGIN_BOTTOM) / len(series))
    places: list[tuple[float, int]] = []
    for y, i in wanted:
        places.append((max(y, places[-1][0] + gap) if places else y, i))
    over = places[-1][0] - (HEIGHT - MARGIN_BOTTOM)
    if over > 0:
        places = [(y - over, i) for y, i in places]
    parts = []
    right = WIDTH - MARGIN_RIGHT
    for y, i in places:
        one = series[i]
        look = style(one.tuning, one.augmentation)
        parts.append(f'<line class="line {look}" x1="{right + 6}" x2="{right + 24}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_label(right + 29, y + 4, _cut(one.name, 14), "start"))
    return parts


def bar_plot(bars: Sequence[Bar], format: Callable[[float], str], title: str, reference: float | None = None) -> str:
    """Horizontal bars from zero, each with its name before and its value behind; `reference` is a dashed upright."""
    if not bars:
        return '<p class="note">Nothing was measured.</p>'
    left, right = 130, WIDTH - 90
    height = len(bars) * (BAR + GAP) + GAP + (20 if reference is not None else 0)
    highest = max([bar.value for bar in bars] + ([reference] if reference is not None else [])) or 1.0

    def to_x(value: float) -> float:
        return left + value / highest * (right - left)

    parts = [_opened(WIDTH, height, title)]
    for i, bar in enumerate(bars):
        y = GAP + i * (BAR + GAP)
        width = max(1.0, to_x(bar.value) - left)
        parts.append(_label(left - 8, y + BAR / 2 + 4, _cut(bar.name, 17), "end"))
        parts.append(
            f'<rect class="bar {style(bar.tuning, bar.augmentation)}" x="{left}" y="{y}" width="{width:.1f}" '
            f'height="{BAR}" rx="3"><title>{escape(f"{bar.name}: {format(bar.value)}")}</title></rect>'
        )
        parts.append(_label(left + width + 6, y + BAR / 2 + 4, format(bar.value), "start", "value"))
    parts.append(f'<line class="axis" x1="{left}" x2="{left}" y1="4" y2="{height - 4}"/>')
    if reference is not None:
        x = to_x(reference)
        parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 18}"/>')
        parts.append(_label(x, height - 4, f"base {format(reference)}", "middle"))
    return "".join(parts) + "</svg>"


def _opened(width: int, height: int, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'


def _label(x: float, y: float, text: str, anchor: str, name: str = "label") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
