"""What a page is made of, and how its numbers are written."""

from dataclasses import dataclass, field

import altair as alt

METRICS = {"top1": "top-1", "top5": "top-5"}


@dataclass(frozen=True)
class Figure:
    """A chart with the name of its files, what it shows in words (for who cannot see it), and a caption."""

    name: str
    chart: alt.TopLevelMixin
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Cells as text, a second line in small. The first `words` columns hold words, the others numbers."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    words: int = 1
    wide: bool = False


@dataclass(frozen=True)
class Pair:
    """A pool image beside a query image, both as data URIs."""

    pool_image: str
    pool_caption: str
    query_image: str
    query_caption: str
    similarity: str


@dataclass(frozen=True)
class Album:
    title: str
    pairs: list[Pair]


@dataclass(frozen=True)
class Section:
    """A heading with sentences, then figures, tables and pictures; a section without any says why in its sentences."""

    anchor: str
    title: str
    sentences: list[str]
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    albums: list[Album] = field(default_factory=list)


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def interval(low: float, high: float) -> str:
    return f"{points(low)} to {points(high)}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def named(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
