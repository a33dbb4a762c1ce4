"""What can be asked: one model a stage. A field is here because the stage's rows depend on it."""

from typing import TYPE_CHECKING, Any

from simgap import runs
from simgap.request import Frozen, Input, Request, Unit, cut
from simgap.study import Compare, Training
from simgap.study import Fetch as Icons
from simgap.study import Split as Rule

if TYPE_CHECKING:
    from simgap.store import Store

BYTES_A_UNIT = 4 << 30
SAMPLES_A_UNIT = 200_000
VECTORS_A_UNIT = 5_000_000


class Shard(Frozen):
    """A shard as listed: `path` within its data set, `uri` where it lies, `size` in bytes (None: named, but not there)."""

    path: str
    uri: str
    size: int | None
    etag: str = ""
    sha256: str | None = None

    def identity(self) -> list[Any]:
        """What is known of its content: a checksum wherever it lies, or a place and the mark of its version there."""
        return [self.path, self.size, self.sha256 or [self.uri, self.etag]]


class Fetch(Request):
    """Brings demo data in: icons of an npm package, drawn into webdataset shards."""

    stage, revision = "fetch", 1
    icons: Icons


class Ingest(Request):
    """Lists, checks and counts a data set's samples: tables samples, failures and shards."""

    stage, revision = "ingest", 3
    role: str
    shards: list[Shard]
    labels: list[Shard] = []
    """For a test set: classnames.txt and zeroshot_classification_templates.txt."""
    records: list[Shard] = []
    """img2dataset's own counts, NNNNN_stats.json, where there are any."""

    def units(self, store: "Store", coarser: int = 1) -> list[Unit]:
        return cut({shard.path: shard.size or 0 for shard in self.shards}, BYTES_A_UNIT * coarser)


class Tower(Frozen):
    """An encoder's weights: a pretrained tag or file of open_clip's, or the checkpoint of a training run."""

    name: str
    model: str
    pretrained: str | None = None
    sha256: str | None = None
    """Of a weights file that is named by its path."""
    checkpoint: Input | None = None

    def identity(self) -> list[Any]:
        """Weights with a checksum are known by it, wherever their file lies."""
        return [self.name, self.model, self.sha256 or self.pretrained, self.checkpoint and self.checkpoint.identity()]


class Embed(Request):
    """Unit vectors, float16, one for each sample: table embeddings."""

    stage, revision, one_device = "embed", 1, True
    samples: Input
    encoder: Tower

    def units(self, store: "Store", coarser: int = 1) -> list[Unit]:
        shards = runs.read(store, self.samples, "shards", ["shard", "done"]).to_pylist()
        return cut({row["shard"]: row["done"] for row in shards}, SAMPLES_A_UNIT * coarser)

    def shares(self) -> str:
        return f"embed by {self.encoder.model_dump_json()}"


class Search(Request):
    """Each sample's largest similarity and margin for one test set, and each query's nearest samples, exactly.

    Without thresholds it searches the reference, whose rank 1 are the thresholds.
    """

    stage, revision = "search", 1
    dataset: str
    encoder: str
    reference: str
    test_set: str
    vectors: Input
    queries: Input
    thresholds: Input | None = None
    neighbours: int = 100

    def units(self, store: "Store", coarser: int = 1) -> list[Unit]:
        files = runs.load(store, self.vectors).tables.get("embeddings", [])
        parts = cut({file.path: file.rows for file in files}, VECTORS_A_UNIT * coarser)
        return [*parts, Unit(number=len(parts), reduce=True)]

    def shares(self) -> str:
        return f"search {self.vectors.run}"


class Pruned(Frozen):
    """A test set as a certificate needs it: its queries, and the reference's thresholds for them."""

    test_set: str
    queries: Input
    thresholds: Input


class Selection(Frozen):
    """A split's rule with all that its SQL reads. `like` is the split whose size a random one takes."""

    split: str
    rule: Rule
    tests: list[str]
    proximity: list[Input] = []
    like: "Selection | None" = None


class Split(Request):
    """The sample ids of one split: table members, and a row of table splits."""

    stage, revision = "split", 2
    selection: Selection
    encoder: str | None
    reference: str
    samples: list[Input]
    reference_samples: Input
    vectors: list[Input]
    """What was embedded of the pool; empty for rules that need only ingest."""


class Verify(Request):
    """A split against one test set, by other code than the search: certificates, and the split's neighbours."""

    stage, revision = "verify", 1
    split: str
    encoder: str
    reference: str
    test_set: str
    members: Input
    vectors: list[Input]
    reference_vectors: Input
    queries: Input
    pruned_for: list[Pruned] = []
    """All test sets that the split was pruned for; empty when there is nothing to certify."""
    neighbours: int = 100

    def shares(self) -> str:
        return f"verify {self.split}"


class Train(Request):
    """A CLIP model trained on a split by open_clip's own program: tables checkpoints, training_log, exposures."""

    stage, revision = "train", 2
    split: Input
    split_name: str
    samples: list[Input]
    training: Training
    seed: int


class Register(Request):
    """A checkpoint from elsewhere, as if it had been trained here: table checkpoints."""

    stage, revision = "register", 1
    weights: Tower


class Evaluate(Request):
    """Each test image's prediction under a checkpoint, by open_clip's zero-shot protocol: table predictions."""

    stage, revision = "evaluate", 1
    checkpoint: Input
    checkpoint_name: str
    model: str
    test_set: str
    samples: Input
    protocol: str

    def shares(self) -> str:
        return f"evaluate {self.checkpoint.run}"


class Control(Frozen):
    pruned: str
    control: str


class Score(Request):
    """Scores with intervals, paired comparisons, explained shares."""

    stage, revision = "score", 1
    predictions: list[Input]
    checkpoints: list[Input]
    compare: list[Compare]
    controls: list[Control]
    everything: str | None
    reference: str | None
    resamples: int
    seed: int

    def shares(self) -> str:
        return self.stage


class Report(Request):
    """One self-contained HTML file, and its figures."""

    stage, revision = "report", 1
    study: dict[str, Any]
    sources: list[Input]


BY_STAGE: dict[str, type[Request]] = {
    kind.stage: kind for kind in (Fetch, Ingest, Embed, Search, Split, Verify, Train, Register, Evaluate, Score, Report)
}


def from_document(document: dict[str, Any]) -> Request:
    """The request in a request.json. Raises KeyError for an unknown stage, pydantic.ValidationError for unknown fields."""
    kind: type[Request] = BY_STAGE[document["stage"]]
    return kind(name=document["name"], **document["parameters"], **document["inputs"])
