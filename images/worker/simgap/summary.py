"""What a stage of a study did, in a line for people."""

from collections import Counter
from collections.abc import Callable

from simgap import runs
from simgap.runs import Run
from simgap.store import Store


def line(store: Store, stage: str, made: list[Run]) -> str:
    """Numbers of a stage's committed runs, with what failed and why; empty when it had nothing to do."""
    return _LINES[stage](store, made) if made else "nothing to do"


def _ingest(store: Store, made: list[Run]) -> str:
    samples: Counter[str] = Counter()
    for run in made:
        samples[runs.request_document(store, run.run)["parameters"]["role"]] += run.counts.done
    names = {"pool": "pool", "reference": "reference", "test": "tests"}
    told = " · ".join(f"{name} {samples[role]:,}" for role, name in names.items())
    return told + _failed(store, made)


def _search(store: Store, made: list[Run]) -> str:
    asked = [runs.request_document(store, run.run) for run in made]
    queries = {
        i["queries"]["run"]: runs.load(store, i["queries"]["run"]).counts.done for a in asked if (i := a["inputs"])
    }
    vectors = {
        i["vectors"]["run"]: runs.load(store, i["vectors"]["run"]).counts.done for a in asked if (i := a["inputs"])
    }
    rechecked = sum(facts.get("pairs_rechecked", 0) for run in made for facts in run.facts)
    return f"{sum(vectors.values()):,} x {sum(queries.values()):,} · {rechecked:,} pairs rechecked in float64"


def _split(store: Store, made: list[Run]) -> str:
    rows = [row for run in made for row in runs.read(store, run.run, "splits", ["split", "samples"]).to_pylist()]
    return " · ".join(f"{row['split']} {row['samples']:,}" for row in rows)


def _verify(store: Store, made: list[Run]) -> str:
    certified = sum(bool(run.tables.get("certificates")) for run in made)
    return f"{len(made)} splits x test sets · certificates: {certified}, all hold"


def _named(store: Store, made: list[Run]) -> str:
    return " · ".join(run.name for run in made)


def _score(store: Store, made: list[Run]) -> str:
    rows = {
        name: sum(part.rows for run in made for part in run.tables.get(name, [])) for name in ("scores", "comparisons")
    }
    return f"{rows['scores']} scores · {rows['comparisons']} comparisons"


def _report(store: Store, made: list[Run]) -> str:
    return " · ".join(
        store.url(file.path).removeprefix("file://")
        for run in made
        for name, file in run.files.items()
        if name.endswith(".html")
    )


def _counted(what: str) -> Callable[[Store, list[Run]], str]:
    return lambda store, made: f"{sum(run.counts.done for run in made):,} {what}" + _failed(store, made)


def _failed(store: Store, made: list[Run]) -> str:
    """How many failed, with the most frequent reason."""
    failed = sum(run.counts.failed for run in made)
    if not failed:
        return ""
    reasons = Counter(
        reason
        for run in made
        if run.tables.get("failures")
        for reason in runs.read(store, run.run, "failures", ["reason"])["reason"].to_pylist()
    )
    return f" ({failed:,} failed: {reasons.most_common(1)[0][0]})"


_LINES: dict[str, Callable[[Store, list[Run]], str]] = {
    "fetch": _counted("icons"),
    "ingest": _ingest,
    "embed": _counted("vectors"),
    "search": _search,
    "split": _split,
    "verify": _verify,
    "train": _named,
    "register": _named,
    "evaluate": _counted("predictions"),
    "score": _score,
    "report": _report,
}
