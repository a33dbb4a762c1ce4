"""What a study asks of each stage: from the study and the runs that exist, the requests by role.

A role says what a run is for in a study: `embed/noto`, `search/noto/sketch`, `split/sketch-pruned`, `train/everything-0`.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from hashlib import file_digest
from pathlib import Path

from simgap import listing, runs
from simgap.errors import SimgapError
from simgap.request import Input, Request
from simgap.requests import (
    Control,
    Embed,
    Evaluate,
    Fetch,
    Ingest,
    Pruned,
    Report,
    Score,
    Search,
    Selection,
    Split,
    Tower,
    Train,
    Verify,
)  # fmt: skip
from simgap.shards import first_sample_id
from simgap.store import Store
from simgap.study import Data, Everything, Prune, Random, ReferenceAlone, Study, Training

Requests = dict[str, Request]
LABELS = ("classnames.txt", "zeroshot_classification_templates.txt")


class Known:
    """The runs that a study has so far, by role."""

    def __init__(self, store: Store, roles: dict[str, str]) -> None:
        self.store, self.roles = store, roles

    def input(self, role: str) -> Input:
        """Raises SimgapError when the stage before has not been committed."""
        if role not in self.roles:
            raise SimgapError(f"{role}: asked for before it was made; the stages are out of order")
        return runs.load(self.store, self.roles[role]).as_input()

    def samples(self, dataset: str) -> Input:
        """An ingested data set. Raises SimgapError when none of its samples can be used."""
        found = runs.load(self.store, self.input(f"ingest/{dataset}"))
        if not found.counts.done:
            reasons = Counter(runs.read(self.store, found.run, "failures")["reason"].to_pylist()).most_common(1)
            why = (
                f"{found.counts.failed:,} failed, most of them: {reasons[0][0]}" if reasons else "its shards are empty"
            )
            raise SimgapError(f"data set {dataset}: none of its samples can be used ({why}); correct its `shards`")
        return found.as_input()

    def inputs(self, stage: str) -> list[Input]:
        return [self.input(role) for role in sorted(self.roles) if role.split("/")[0] == stage]


def fetch(study: Study, known: Known) -> Requests:
    return {f"fetch/{name}": Fetch(name=name, icons=icons) for name, icons in study.fetch.items()}


def ingest(study: Study, known: Known) -> Requests:
    roles = (
        [(data, "pool") for data in study.pool] + [(study.reference, "reference")] + [(t, "test") for t in study.tests]
    )
    return {f"ingest/{data.name}": ingest_of(data, role, known) for data, role in roles}


def split_for_encoder(study: Study, known: Known) -> Requests:
    name = study.encoder.trained_on
    return {f"split/{name}": _split(study, known, name)} if name else {}


def train_encoder(study: Study, known: Known) -> Requests:
    name = study.encoder.trained_on
    return _trained(study, known, [name], [study.encoder_seed]) if name and study.train else {}


def embed(study: Study, known: Known) -> Requests:
    encoder = tower(study, known)
    names = [data.name for data in [*study.pool, study.reference, *study.tests]]
    _refuse_clashes(known, names)
    return {f"embed/{name}": Embed(name=name, samples=known.samples(name), encoder=encoder) for name in names}


def search_reference(study: Study, known: Known) -> Requests:
    return _searched(study, known, [study.reference], with_thresholds=False)


def search_pool(study: Study, known: Known) -> Requests:
    return _searched(study, known, study.pool, with_thresholds=True)


def split(study: Study, known: Known) -> Requests:
    return {f"split/{name}": _split(study, known, name) for name in study.splits}


def verify(study: Study, known: Known) -> Requests:
    wanted = [
        (name, t.name) for name in study.splits for t in study.tests if study.train or _certified(study, name, t.name)
    ]
    return {f"verify/{name}/{test}": _verify(study, known, name, test) for name, test in wanted}


def train(study: Study, known: Known) -> Requests:
    return _trained(study, known, list(study.splits), study.train.seeds) if study.train else {}


def evaluate(study: Study, known: Known) -> Requests:
    checkpoints = [f"{name}-{seed}" for name in study.splits for seed in study.train.seeds] if study.train else []
    return {
        f"evaluate/{checkpoint}/{test.name}": Evaluate(
            name=f"{checkpoint}-{test.name}",
            checkpoint=known.input(f"train/{checkpoint}"),
            checkpoint_name=checkpoint,
            model=study.train.model,  # pyright: ignore[reportOptionalMemberAccess]
            test_set=test.name,
            samples=known.samples(test.name),
            protocol=study.evaluate.protocol,
        )
        for checkpoint in checkpoints
        for test in study.tests
    }


def score(study: Study, known: Known) -> Requests:
    if not study.train:
        return {}
    controls = [
        Control(pruned=pair.split, control=pair.with_)
        for pair in study.compare
        if isinstance(study.splits[pair.split], Prune)
        and isinstance(control := study.splits[pair.with_], Random)
        and control.like == pair.split
    ]
    request = Score(
        name=study.name,
        predictions=known.inputs("evaluate"),
        checkpoints=known.inputs("train"),
        compare=study.compare,
        controls=controls,
        everything=_named(study, Everything),
        reference=_named(study, ReferenceAlone),
        resamples=study.score.resamples,
        seed=study.score.seed,
    )
    return {"score": request}


def report(study: Study, known: Known) -> Requests:
    sources = [known.input(role) for role in sorted(known.roles) if role != "report"]
    return {"report": Report(name=study.name, study=study.model_dump(mode="json", by_alias=True), sources=sources)}


STEPS: dict[tuple[str, str | None], Callable[[Study, Known], Requests]] = {
    ("fetch", None): fetch,
    ("ingest", None): ingest,
    ("split", "encoder"): split_for_encoder,
    ("train", "encoder"): train_encoder,
    ("embed", None): embed,
    ("search", "reference"): search_reference,
    ("search", "pool"): search_pool,
    ("split", None): split,
    ("verify", None): verify,
    ("train", None): train,
    ("evaluate", None): evaluate,
    ("score", None): score,
    ("report", None): report,
}
"""A study's way through the stages: (stage, part) in order."""


def ingest_of(data: Data, role: str, known: Known) -> Ingest:
    """A data set as it lies there now. Raises SimgapError when it has no shards, or a test set no labels."""
    there = listing.files(known.store, data, known.roles)
    shards = listing.shards(known.store, data, there)
    if not shards:
        raise SimgapError(
            f"{role} {data.name}: no .tar under {data.shards!r} in {known.store.root};"
            " put its shards there, or correct `shards` in the study file"
        )
    labels = [there[name] for name in LABELS if name in there] if role == "test" else []
    if role == "test" and len(labels) < len(LABELS):
        raise SimgapError(
            f"test set {data.name}: {' or '.join(LABELS)} is missing under {data.shards!r};"
            " a test set is a folder in CLIP_benchmark's webdataset format"
        )
    records = [file for path, file in there.items() if path.endswith(listing.RECORD)]
    return Ingest(name=data.name, role=role, shards=shards, labels=labels, records=records)


def tower(study: Study, known: Known) -> Tower:
    """The encoder's weights."""
    encoder = study.encoder
    if encoder.trained_on and study.train:
        checkpoint = f"{encoder.trained_on}-{study.encoder_seed}"
        name = f"{study.train.model}/{checkpoint}"
        return Tower(name=name, model=study.train.model, checkpoint=known.input(f"train/{checkpoint}"))
    assert encoder.model and encoder.pretrained  # the study file was checked
    return pretrained_tower(encoder.model, encoder.pretrained)


def pretrained_tower(model: str, pretrained: str) -> Tower:
    """Weights from elsewhere: a file is known by its checksum, a tag of open_clip's by its name."""
    weights = Path(pretrained)
    digest = _sha256(weights, weights.stat().st_mtime_ns) if weights.is_file() else None
    name = f"{model}/{weights.stem if digest else pretrained}"
    return Tower(name=name, model=model, pretrained=pretrained, sha256=digest)


@cache  # a study asks for its encoder once for each search, split and check
def _sha256(file: Path, changed_ns: int) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def _refuse_clashes(known: Known, datasets: list[str]) -> None:
    """Sample ids are told apart across data sets by 43 bits of a hash; ingest has looked within each of them."""
    seen: dict[int, str] = {}
    for dataset in datasets:
        for shard in runs.read(known.store, known.samples(dataset), "shards", ["shard"])["shard"].to_pylist():
            first = first_sample_id(dataset, shard)
            if first in seen:
                raise SimgapError(f"{seen[first]} and {dataset}/{shard} would share sample ids; rename one")
            seen[first] = f"{dataset}/{shard}"


def _searched(study: Study, known: Known, datasets: list[Data], *, with_thresholds: bool) -> Requests:
    return {
        f"search/{data.name}/{test.name}": Search(
            name=f"{data.name}-{test.name}",
            dataset=data.name,
            encoder=tower(study, known).name,
            reference=study.reference.name,
            test_set=test.name,
            vectors=known.input(f"embed/{data.name}"),
            queries=known.input(f"embed/{test.name}"),
            thresholds=known.input(f"search/{study.reference.name}/{test.name}") if with_thresholds else None,
            neighbours=study.search.neighbours,
        )
        for data in datasets
        for test in study.tests
    }


def _split(study: Study, known: Known, name: str) -> Split:
    rule = study.splits[name]
    pool = [] if isinstance(rule, ReferenceAlone) else [data.name for data in study.pool]  # more pool is no other split
    ingest_only = isinstance(rule, Everything | ReferenceAlone)
    return Split(
        name=name,
        selection=_selection(study, known, name),
        encoder=None if ingest_only else tower(study, known).name,
        reference=study.reference.name,
        samples=[known.samples(data) for data in pool],
        reference_samples=known.samples(study.reference.name),
        vectors=[] if ingest_only else [known.input(f"embed/{data}") for data in pool],
    )


def _selection(study: Study, known: Known, name: str) -> Selection:
    rule, tests = study.splits[name], study.tests_of(name)
    looks_itself = not isinstance(rule, Random)
    return Selection(
        split=name,
        rule=rule,
        tests=tests if looks_itself else [],
        proximity=[known.input(f"search/{data.name}/{test}") for data in study.pool for test in tests]
        if looks_itself
        else [],
        like=_selection(study, known, rule.like) if isinstance(rule, Random) else None,
    )


def _verify(study: Study, known: Known, name: str, test: str) -> Verify:
    reference = study.reference.name
    certified = study.tests_of(name) if _certified(study, name, test) else []
    return Verify(
        name=f"{name}-{test}",
        split=name,
        encoder=tower(study, known).name,
        reference=reference,
        test_set=test,
        members=known.input(f"split/{name}"),
        vectors=[known.input(f"embed/{data.name}") for data in study.pool],
        reference_vectors=known.input(f"embed/{reference}"),
        queries=known.input(f"embed/{test}"),
        pruned_for=[
            Pruned(test_set=t, queries=known.input(f"embed/{t}"), thresholds=known.input(f"search/{reference}/{t}"))
            for t in certified
        ],
        neighbours=study.search.neighbours,
    )


def _certified(study: Study, name: str, test: str) -> bool:
    return isinstance(study.splits[name], Prune) and test in study.tests_of(name)


def _trained(study: Study, known: Known, names: list[str], seeds: list[int]) -> Requests:
    assert study.train
    settings = Training(**study.train.model_dump(exclude={"seeds"}))
    pool, reference = [known.samples(data.name) for data in study.pool], known.samples(study.reference.name)
    return {
        f"train/{name}-{seed}": Train(
            name=f"{name}-{seed}",
            split=known.input(f"split/{name}"),
            split_name=name,
            samples=[reference] if isinstance(study.splits[name], ReferenceAlone) else [*pool, reference],
            training=settings,
            seed=seed,
        )
        for name in names
        for seed in seeds
    }


def _named(study: Study, kind: type) -> str | None:
    return next((n for n, rule in study.splits.items() if isinstance(rule, kind) and rule.with_reference), None)
