"""The report's charts: rows in, Vega-Lite out, drawn without a browser and without a network."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import altair as alt
import vl_convert

from simgap.stages.report.material import Row
from simgap.stages.report.view import METRICS, Figure

OKABE_ITO = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#882255"]
"""For people who see few colours: Okabe and Ito 2008, the yellow darkened for a white page, and a wine red."""
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
GREY = "#767676"
DASHES = {"pool": [7, 4], "reference": [2, 3]}
PANEL_PX = {1: 420, 2: 350}
PANEL_PX_OF_MANY, PANELS_IN_A_ROW = 255, 3
FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Drawing:
    svg: str
    png: bytes


def render(figure: Figure) -> Drawing:
    """A figure as SVG text and as PNG (two pixels to a CSS pixel)."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    svg = vl_convert.vegalite_to_svg(figure.chart.to_json(), vl_version=version)
    return Drawing(svg, vl_convert.svg_to_png(svg, scale=2))


def inline(name: str, svg: str) -> str:
    """The SVG to stand in a page: ids made its own (all charts count theirs from 0), named for screen readers."""
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-alt" ', 1)


def forest(rows: Sequence[Row], title: str) -> alt.TopLevelMixin:
    """Differences with intervals. Rows: label, panel, metric, value, low, high (shares; drawn as percentage points)."""
    data = _values(
        {k: 100 * row[k] for k in ("value", "low", "high")}
        | {"label": row["label"], "panel": row["panel"], "metric": METRICS[row["metric"]]}
        for row in rows
    )
    y = alt.Y("label:N", title=None, sort=_order(rows, "label"), axis=alt.Axis(labelLimit=260, grid=True))
    offset = alt.YOffset("metric:N", sort=list(METRICS.values()))
    color = _color("metric", list(METRICS.values()))
    shape = alt.Shape("metric:N", title=None, scale=alt.Scale(domain=list(METRICS.values()), range=SHAPES))
    base = alt.Chart().encode(y=y, yOffset=offset, color=color)
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title, scale=alt.Scale(padding=6)), x2="high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="value:Q", shape=shape)
    zero = alt.Chart().mark_rule(color=GREY, strokeDash=[4, 3]).encode(x=alt.datum(0))
    layers = alt.layer(zero, bars, dots, data=data).properties(width=_width_px(rows), height=alt.Step(16))
    return _dressed(layers.facet(facet=_panel(rows), columns=PANELS_IN_A_ROW))


def gaps(rows: Sequence[Row], splits: list[str]) -> alt.TopLevelMixin:
    """Cumulative distributions. Rows: of, kind (pool, reference, split), panel, similarity, level."""
    rows = sorted(rows, key=lambda row: row["kind"] != "split")  # dashes are drawn last, over the lines they may cover
    drawn = _order(rows, "of")
    colors = [_color_of(name, splits) for name in drawn]
    dashes = [[1, 0] if row["kind"] == "split" else DASHES[row["kind"]] for row in {r["of"]: r for r in rows}.values()]
    widths = [1.6 if name in splits else 2.4 for name in drawn]
    legend = alt.Legend(title=None, orient="top", columns=5, labelLimit=220, symbolSize=300)
    data = _values({k: row[k] for k in ("of", "panel", "similarity", "level")} for row in rows)
    chart = (
        alt.Chart(data)
        .mark_line()
        .encode(
            x=alt.X("similarity:Q", title="similarity of the nearest sample", scale=alt.Scale(zero=False)),
            y=alt.Y("level:Q", title="queries at or below", axis=alt.Axis(format="%")),
            color=alt.Color("of:N", scale=alt.Scale(domain=drawn, range=colors), legend=legend),
            strokeDash=alt.StrokeDash("of:N", scale=alt.Scale(domain=drawn, range=dashes), legend=legend),
            strokeWidth=alt.StrokeWidth("of:N", scale=alt.Scale(domain=drawn, range=widths), legend=legend),
            order="level:Q",
        )
        .properties(width=_width_px(rows), height=190)
    )
    return _dressed(chart.facet(facet=_panel(rows), columns=PANELS_IN_A_ROW))


def hulls(rows: Sequence[Row]) -> alt.TopLevelMixin:
    """Each source's share of the hull (bar) and of the pool (tick). Rows: panel, source, of_hull, of_pool, hull."""
    data = _values({k: row[k] for k in ("panel", "source", "of_hull", "of_pool", "hull")} for row in rows)
    y = alt.Y("source:N", title=None, sort=_order(rows, "source"), axis=alt.Axis(labelLimit=200))
    x = alt.X("of_hull:Q", title="share of the hull (bar) and of the pool (line)", axis=alt.Axis(format="%"))
    bars = alt.Chart().mark_bar(color="#56B4E9", height=11).encode(y=y, x=x)
    ticks = alt.Chart().mark_tick(color="#000000", thickness=2.5, height=13).encode(y=y, x="of_pool:Q")
    counts = alt.Chart().mark_text(align="left", dx=4, fontSize=9, color="#333333")
    counts = counts.encode(y=y, x="end:Q", text=alt.Text("hull:Q", format=","))
    counts = counts.transform_calculate(end="max(datum.of_hull, datum.of_pool)")
    layers = alt.layer(bars, ticks, counts, data=data).properties(width=_width_px(rows), height=alt.Step(16))
    return _dressed(layers.facet(facet=_panel(rows), columns=PANELS_IN_A_ROW))


def accuracy_by_similarity(rows: Sequence[Row], splits: list[str]) -> alt.TopLevelMixin:
    """Accuracy in bins with intervals, a row of panels for each metric, each on its own scale.

    Rows: split, panel, metric, similarity (a bin's middle), value, low, high.
    """
    metrics = [metric for metric in METRICS if any(row["metric"] == metric for row in rows)]
    return _dressed(
        alt.vconcat(*(_binned([r for r in rows if r["metric"] == m], METRICS[m], rows, splits) for m in metrics))
    )


def _binned(rows: Sequence[Row], metric: str, of_all: Sequence[Row], splits: list[str]) -> alt.FacetChart:
    drawn = [split for split in splits if any(row["split"] == split for row in of_all)]
    apart = {split: 0.005 * (i - (len(drawn) - 1) / 2) for i, split in enumerate(drawn)}  # or bars would hide bars
    data = _values(
        {k: row[k] for k in ("split", "panel", "value", "low", "high")}
        | {"similarity": row["similarity"] + apart[row["split"]]}
        for row in rows
    )
    color = alt.Color(
        "split:N",
        scale=alt.Scale(domain=drawn, range=[_color_of(s, splits) for s in drawn]),
        legend=alt.Legend(title=None, orient="top", columns=5, labelLimit=220, symbolOpacity=1),
    )
    shape = alt.Shape("split:N", scale=alt.Scale(domain=drawn, range=_cycled(SHAPES, len(drawn))))
    x = alt.X("similarity:Q", title="similarity of the nearest training image", scale=alt.Scale(zero=False))
    y = alt.Y("value:Q", title=f"{metric} right", axis=alt.Axis(format="%"))
    base = alt.Chart().encode(x=x, color=color)
    lines = base.mark_line(strokeWidth=1, opacity=0.6).encode(y=y)
    bars = base.mark_rule(opacity=0.7).encode(y=alt.Y("low:Q", title=f"{metric} right"), y2="high:Q")
    dots = base.mark_point(filled=True, size=35, opacity=1).encode(y=y, shape=shape)
    layers = alt.layer(lines, bars, dots, data=data).properties(width=_width_px(of_all), height=170)
    return layers.facet(facet=_panel(of_all), columns=PANELS_IN_A_ROW)


def _dressed(chart: alt.FacetChart | alt.VConcatChart) -> alt.TopLevelMixin:
    """The look that all charts share. Axes of panels are read together, so they share their scales."""
    return (
        chart.configure(font=FONT, background="#ffffff")
        .configure_view(stroke="#dddddd")
        .configure_axis(gridColor="#eeeeee", domainColor="#999999", tickColor="#999999", titleFontWeight="normal")
        .configure_header(labelFontWeight="bold", labelFontSize=12)
        .configure_legend(labelFontSize=11)
    )


def _width_px(rows: Sequence[Row]) -> int:
    return PANEL_PX.get(len(_order(rows, "panel")), PANEL_PX_OF_MANY)


def _panel(rows: Sequence[Row]) -> alt.Facet:
    return alt.Facet("panel:N", title=None, sort=_order(rows, "panel"))


def _color(field: str, names: list[str]) -> alt.Color:
    scale = alt.Scale(domain=names, range=_cycled(OKABE_ITO, len(names)))
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=alt.Legend(orient="top", title=None))


def _color_of(name: str, splits: list[str]) -> str:
    """A split has one colour in all figures; what is not trained on is black."""
    return OKABE_ITO[splits.index(name) % len(OKABE_ITO)] if name in splits else "#000000"


def _cycled(values: list[str], number: int) -> list[str]:
    return [values[i % len(values)] for i in range(number)]


def _order(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _values(rows: Iterable[Row]) -> alt.InlineData:
    return alt.InlineData(values=list(rows))
