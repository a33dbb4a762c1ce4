"""The .sql files: set logic and questions, read as text."""

from functools import cache
from pathlib import Path

from simgap.errors import SimgapError

OVER_ALL = "-- Over all studies: "
"""How a question begins that is not asked of one study."""
FOLDER = Path(__file__).parent / "sql"


@cache
def text(name: str) -> str:
    """The statement in sql/<name>.sql. Raises SimgapError when there is none."""
    path = FOLDER / f"{name}.sql"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.sql")))
        raise SimgapError(f"sql/{name}.sql: no such statement; there are: {there}")
    return path.read_text(encoding="utf-8")


def names(folder: str) -> list[str]:
    """The statements of a folder, without their suffix."""
    return sorted(path.stem for path in (FOLDER / folder).glob("*.sql"))
