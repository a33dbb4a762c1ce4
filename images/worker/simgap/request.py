"""What every stage's request has in common: its key, its place in the store, and its cut into units."""

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from simgap.store import Store

KEY_DIGITS = 12


class Frozen(BaseModel):
    """A value: immutable, and with no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sealed(Frozen):
    """A document whose `seal` is the checksum of all the rest of it: a byte that was changed is noticed."""

    seal: str = ""

    def to_bytes(self) -> bytes:
        """The document as it is stored."""
        blank = self.model_copy(update={"seal": ""})
        seal = sha256(blank.model_dump_json().encode()).hexdigest()
        return blank.model_copy(update={"seal": seal}).model_dump_json(indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """The document in these bytes; None when they are not as it was stored."""
        try:
            document = cls.model_validate_json(data)
        except ValidationError:
            return None
        return document if document.to_bytes() == data else None


class Input(Frozen):
    """What another run made: where it is, and the checksum of what it holds."""

    run: str
    content: str

    def identity(self) -> str:
        return self.content


class Unit(Frozen):
    """A part of a run that one process does on its own; a `reduce` unit comes last and reads the others' tables."""

    number: int
    parts: tuple[str, ...] = ()
    reduce: bool = False


class Request(Frozen):
    """One stage, asked for once. Subclasses add the parameters and inputs that its rows depend on, and nothing else."""

    stage: ClassVar[str]
    revision: ClassVar[int]
    one_device: ClassVar[bool] = False
    """Whether what units make on different kinds of device must not be put together."""
    name: str

    @property
    def key(self) -> str:
        """The hash of stage, revision, name, parameters, and what the inputs hold (not how they came about)."""
        asked = {"stage": self.stage, "revision": self.revision, "fields": _identity(self)}
        return sha256(canonical_json(asked)).hexdigest()[:KEY_DIGITS]

    @property
    def path(self) -> str:
        return f"runs/{self.stage}/{self.name}-{self.key}"

    def inputs(self) -> list[str]:
        """The runs that this one reads."""
        return sorted({found.run for found in _inputs(self)})

    def units(self, store: "Store", coarser: int = 1) -> list[Unit]:
        """The cut, from the inputs' manifests alone, into units so many times larger than usual."""
        return [Unit(number=0)]

    def shares(self) -> str:
        """Requests that share this are given to one process, which then loads once what it names."""
        return self.path

    def document(self) -> dict[str, Any]:
        """request.json."""
        fields = self.model_dump(mode="json", by_alias=True)
        inputs = {name for name in type(self).model_fields if any(_inputs(getattr(self, name)))}
        return {
            "stage": self.stage,
            "revision": self.revision,
            "name": fields.pop("name"),
            "parameters": {name: value for name, value in fields.items() if name not in inputs},
            "inputs": {name: value for name, value in fields.items() if name in inputs},
        }


def canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def cut(sizes: dict[str, int], target: int) -> list[Unit]:
    """Consecutive parts, in units of about `target` (bytes or rows)."""
    total = sum(sizes.values())
    count = max(1, min(len(sizes), -(-total // target)))
    groups: list[list[str]] = [[] for _ in range(count)]
    before = 0
    for part, size in sizes.items():
        groups[min(count - 1, before * count // max(total, 1))].append(part)
        before += size
    return [Unit(number=n, parts=tuple(parts)) for n, parts in enumerate(filter(None, groups))] or [Unit(number=0)]


def _identity(value: Any) -> Any:
    if hasattr(value, "identity"):
        return value.identity()
    if isinstance(value, BaseModel):
        return {name: _identity(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    return value


def _inputs(value: Any) -> list[Input]:
    if isinstance(value, Input):
        return [value]
    if isinstance(value, BaseModel):
        return [found for name in type(value).model_fields for found in _inputs(getattr(value, name))]
    if isinstance(value, dict):
        return [found for item in value.values() for found in _inputs(item)]
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in _inputs(item)]
    return []
