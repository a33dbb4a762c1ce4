"""The report: one self-contained HTML file that says what a study found and how each number was made."""

from simgap import publishing
from simgap.requests import Report
from simgap.stages.report.charts import render
from simgap.stages.report.material import Material
from simgap.stages.report.page import page, sections
from simgap.stages.report.view import Figure
from simgap.store import Store
from simgap.study import Study
from simgap.task import Task


def report(tasks: list[Task[Report]], store: Store) -> None:
    """Attach `report.html`, and its figures as `figures/<name>.svg` and `figures/<name>.png`, for each task."""
    for task in tasks:
        sources = [source.run for source in task.request.sources]
        study = Study.model_validate(task.request.study)
        with publishing.connect(store, sources) as connection:
            material = Material(study, connection, store)
            found = sections(material)
        drawings = _draw(task, [figure for section in found for figure in section.figures])
        html = task.scratch / "report.html"
        html.write_text(page(study, found, drawings), encoding="utf-8")
        task.attach(html.name, html)
        task.count(listed=len(drawings), done=len(drawings))


def _draw(task: Task[Report], figures: list[Figure]) -> dict[str, str]:
    """Attaches the figures as files, and returns them as SVG by name."""
    drawings = {}
    for done, figure in enumerate(figures, start=1):
        drawing = render(figure)
        for suffix, data in (("svg", drawing.svg.encode()), ("png", drawing.png)):
            file = task.scratch / f"{figure.name}.{suffix}"
            file.write_bytes(data)
            task.attach(f"figures/{file.name}", file)
        drawings[figure.name] = drawing.svg
        task.progress(done, len(figures), of="figures")
    return drawings
