"""The study file: data, encoder, splits, training, evaluation and comparisons, in one TOML file."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from simgap.errors import SimgapError
from simgap.request import Frozen

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
StudyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
"""Without capitals: it is a schema in the catalog, where they make no difference."""
Tests = Annotated[list[str], Field(min_length=1)] | None
REEVALUATE, REGISTERED = "reevaluate", "registered"
"""What is kept under studies/ beside the studies: re-evaluations, and checkpoints from elsewhere."""
RESERVED = ("main", "simgap", "temp", "system", "pg_catalog", "information_schema", REEVALUATE, REGISTERED)
"""A study's name is a schema in the catalog; these are DuckDB's, and the catalog's own."""


class Fetch(Frozen):
    """Icon sets of an npm package, drawn as image-caption shards and as labelled test sets."""

    package: str
    integrity: str | None = None
    size_px: Annotated[int, Field(ge=8, le=1024)] = 64
    most: dict[str, Annotated[int, Field(ge=1)]] = {}
    """At most so many icons of a set: the first by the hash of their names."""
    images: dict[Name, list[str]]
    tests: dict[Name, str]
    concepts: list[str]


class Data(Frozen):
    """A data set: shards in the store, at an s3:// or file:// place, or brought by `fetch://<name>/...`."""

    name: Name
    shards: str


class Encoder(Frozen):
    """A pretrained open_clip image tower, or the model that this study trains on one of its splits.

    `seed` is that training's; left out: the first of train.seeds.
    """

    model: str | None = None
    pretrained: str | None = None
    trained_on: str | None = None
    seed: Seed | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Encoder":
        if (self.trained_on is None) == (self.model is None) or (self.model is None) != (self.pretrained is None):
            raise ValueError("give either trained_on, or model and pretrained")
        if self.seed is not None and self.trained_on is None:
            raise ValueError("seed: goes with trained_on; pretrained weights have none")
        return self


class Search(Frozen):
    neighbours: Annotated[int, Field(ge=1, le=10_000)] = 100


class Rule(Frozen):
    """What all split rules share: `tests` left out means all of the study's; the reference is added unless told not to."""

    with_reference: bool = True


class Everything(Rule):
    rule: Literal["all"]


class ReferenceAlone(Rule):
    rule: Literal["none"]


class Prune(Rule):
    rule: Literal["prune"]
    tests: Tests = None


class Threshold(Rule):
    rule: Literal["threshold"]
    tests: Tests = None
    above: Annotated[float, Field(ge=-1, le=1)]


class KeepLeastSimilar(Rule):
    rule: Literal["keep_least_similar"]
    tests: Tests = None
    count: Annotated[int, Field(ge=0)]


class KeepMostSimilar(Rule):
    rule: Literal["keep_most_similar"]
    tests: Tests = None
    count: Annotated[int, Field(ge=0)]


class Random(Rule):
    rule: Literal["random"]
    like: str
    match: list[Literal["source", "caption", "label", "licence", "dataset"]] = []
    seed: int


Split = Annotated[
    Everything | ReferenceAlone | Prune | Threshold | KeepLeastSimilar | KeepMostSimilar | Random,
    Field(discriminator="rule"),
]


class Training(Frozen):
    """Settings of open_clip's training program.

    Every split sees `samples_seen` samples, or else each is gone through `passes` times; there is a checkpoint an epoch.
    """

    model: str
    samples_seen: Annotated[int, Field(ge=1)] | None = None
    passes: Annotated[int, Field(ge=1)] | None = None
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)]
    precision: Literal["fp32", "amp", "amp_bf16", "bf16", "fp16"] = "fp32"
    data_workers: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if (self.samples_seen is None) == (self.passes is None):
            raise ValueError("give either samples_seen, the same for every split, or passes, over each split")
        return self

    def samples_for(self, split_samples: int) -> int:
        """How many samples a model sees when it is trained on a split of this size."""
        return self.samples_seen or (self.passes or 0) * split_samples


class Train(Training):
    seeds: Annotated[list[Seed], Field(min_length=1)]

    @model_validator(mode="after")
    def _different_seeds(self) -> "Train":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is named twice: {self.seeds}")
        return self


class Score(Frozen):
    resamples: Annotated[int, Field(ge=100)] = 2000
    seed: int = 0


class Evaluate(Frozen):
    protocol: Literal["zero_shot"] = "zero_shot"


class Compare(Frozen):
    split: str
    with_: Annotated[str, Field(alias="with")]


class Study(Frozen):
    """A study, whole and checked."""

    name: StudyName
    fetch: dict[Name, Fetch] = {}
    pool: Annotated[list[Data], Field(min_length=1)]
    reference: Data
    tests: Annotated[list[Data], Field(min_length=1)]
    encoder: Encoder
    search: Search = Search()
    splits: dict[Name, Split]
    train: Train | None = None
    evaluate: Evaluate = Evaluate()
    score: Score = Score()
    compare: list[Compare] = []

    @model_validator(mode="after")
    def _names_exist(self) -> "Study":
        tests, splits = [test.name for test in self.tests], list(self.splits)
        if self.name in RESERVED:
            raise ValueError(f"name: {self.name!r} is taken in the catalog; any but these: {', '.join(RESERVED)}")
        _unique([*(data.name for data in [*self.pool, self.reference, *self.tests]), *splits])
        for name, split in self.splits.items():
            for test in getattr(split, "tests", None) or []:
                _known(f"splits.{name}.tests", test, tests)
            if isinstance(split, Random):
                _known(f"splits.{name}.like", split.like, [s for s in splits if not isinstance(self.splits[s], Random)])
        if self.encoder.trained_on:
            whole = [s for s in splits if isinstance(self.splits[s], Everything | ReferenceAlone)]
            _known("encoder.trained_on", self.encoder.trained_on, whole)
            if self.train is None:
                raise ValueError("encoder.trained_on: needs a [train] section")
        for pair in self.compare:
            _known("compare.split", pair.split, splits)
            _known("compare.with", pair.with_, splits)
        for data in [*self.pool, self.reference, *self.tests]:
            if data.shards.startswith("fetch://"):
                _known(
                    f"shards of {data.name}, after fetch://",
                    data.shards.removeprefix("fetch://").split("/")[0],
                    list(self.fetch),
                )
        return self

    @property
    def encoder_seed(self) -> int:
        """The seed of the training that makes the encoder."""
        assert self.train
        return self.train.seeds[0] if self.encoder.seed is None else self.encoder.seed

    def tests_of(self, split: str) -> list[str]:
        """The test sets that a split's rule looks at: those it names, or all; none for rules that look at none."""
        rule = self.splits[split]
        if isinstance(rule, Random):
            return self.tests_of(rule.like)
        if isinstance(rule, Everything | ReferenceAlone):
            return []
        return rule.tests if rule.tests is not None else [test.name for test in self.tests]

    def chosen(self, tests: Iterable[str] = (), splits: Iterable[str] = (), seeds: Iterable[int] = ()) -> "Study":
        """The study with these test sets, splits and seeds alone, and what they cannot do without; empty means all.

        Raises SimgapError for a name that the study does not have, or a split whose rule needs a test set left out.
        """
        document = self.model_dump(by_alias=True)
        names = self._with_needed(list(splits)) if splits else list(self.splits)
        if tests:
            chosen = list(tests)
            _check(lambda: [_known("tests", test, [t.name for t in self.tests]) for test in chosen], self.name)
            document["tests"] = [test for test in document["tests"] if test["name"] in chosen]
        document["splits"] = {name: document["splits"][name] for name in self.splits if name in names}
        document["compare"] = [c for c in document["compare"] if {c["split"], c["with"]} <= set(names)]
        if self.train and (chosen_seeds := list(dict.fromkeys(seeds))):
            document["train"]["seeds"] = chosen_seeds
            if self.encoder.trained_on and chosen_seeds[0] != self.encoder_seed:
                document["encoder"]["seed"] = self.encoder_seed  # other seeds are no other encoder
        return parse(document, f"study {self.name} as chosen")

    def _with_needed(self, splits: list[str]) -> set[str]:
        _check(lambda: [_known("splits", split, list(self.splits)) for split in splits], self.name)
        likes = {rule.like for name in splits if isinstance(rule := self.splits[name], Random)}
        encoder = {self.encoder.trained_on} if self.encoder.trained_on else set()
        return {*splits, *likes, *encoder}


def load(path: Path) -> Study:
    """Reads a study file. Raises SimgapError: one line a mistake, each naming the file, the key and what is allowed."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml"))) or "none"
        raise SimgapError(f"{path}: no such study file; the studies in {path.parent} are: {there}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SimgapError(f"{path}: not TOML: {error}") from error
    study = parse(document, str(path))
    if study.name != path.stem:
        raise SimgapError(f"{path}: name: {study.name!r} has to be {path.stem!r}, as the file is called")
    return study


def parse(document: dict[str, Any], source: str) -> Study:
    """The study in a document; `source` names it in errors."""
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        raise SimgapError("\n".join(f"{source}: {_told(e)}" for e in error.errors())) from error


def head(path: Path) -> str:
    """The comment at a study file's head, without its marks: the command, the time and the result to expect."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return "\n".join(re.sub(r"^# ?", "", line) for line in comment)


def _told(error: Any) -> str:
    """A pydantic error in a line: the key, what is wrong, what is allowed."""
    place = error["loc"]
    where = ".".join(str(part) for n, part in enumerate(place) if (place[0], n) != ("splits", 2))  # there is the rule
    if error["type"] == "extra_forbidden":
        return f"{where}: no such key; {_allowed_keys(place)}"
    if error["type"].startswith("union_tag"):
        given = error["input"].get("rule") if isinstance(error["input"], dict) else error["input"]
        return f"{where}.rule: {'missing' if given is None else f'{given!r} is no rule'}; one of: {', '.join(_rules())}"
    if error["type"] == "missing":
        return f"{where}: missing"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f" (given: {error['input']!r})"
    return f"{where}: {message}{given}" if where else message


def _rules() -> dict[str, type[Rule]]:
    return {get_args(kind.model_fields["rule"].annotation)[0]: kind for kind in get_args(get_args(Split)[0])}


def _allowed_keys(place: tuple[int | str, ...]) -> str:
    """The keys that the model at this place of a study knows."""
    return "allowed: " + ", ".join(field.alias or name for name, field in _model_at(place).model_fields.items())


def _model_at(place: tuple[int | str, ...]) -> type[Frozen]:
    sections = {"fetch": Fetch, "pool": Data, "reference": Data, "tests": Data, "encoder": Encoder, "search": Search,
                "train": Train, "evaluate": Evaluate, "score": Score, "compare": Compare}  # fmt: skip
    if len(place) == 1:
        return Study
    if place[0] == "splits":
        return _rules()[str(place[2])]
    return sections[str(place[0])]


def _known(where: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise ValueError(f"{where}: {name!r} is not one of: {', '.join(names) or '(none)'}")


def _unique(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"data sets and splits need names of their own; used twice: {', '.join(twice)}")


def _check(checks: Any, study: str) -> None:
    try:
        checks()
    except ValueError as error:
        raise SimgapError(f"study {study}: {error}") from error
