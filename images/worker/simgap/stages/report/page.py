"""The page: sections in the order in which they are read, and the HTML around them."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from simgap.stages.report import data, models
from simgap.stages.report.charts import inline
from simgap.stages.report.material import Material
from simgap.stages.report.summary import summary
from simgap.stages.report.view import Section
from simgap.study import Study

SECTIONS = (
    summary,
    models.results,
    models.comparisons,
    models.explained_shares,
    models.lost_neighbours,
    models.accuracy_by_similarity,
    data.gaps,
    data.hulls,
    data.pairs,
    models.exposures,
    data.certificates,
    data.provenance,
)


def sections(material: Material) -> list[Section]:
    return [section(material) for section in SECTIONS]


def page(study: Study, found: list[Section], drawings: dict[str, str]) -> str:
    """The whole report as HTML; `drawings` maps a figure's name to its SVG."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    svgs = {name: Markup(inline(name, svg)) for name, svg in drawings.items()}
    style = Markup((folder / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.jinja").render(study=study, sections=found, svgs=svgs, style=style)
