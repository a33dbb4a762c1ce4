"""One process at a time works on an embedded Airflow's database."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simgap.errors import SimgapError

SECONDS_TO_LET_GO = 2


@contextmanager
def held(path: Path, holder: str) -> Iterator[int]:
    """Holds the lock and yields its file descriptor; a process that inherits it holds the lock too.

    Raises SimgapError that says who holds it, when somebody does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    if not _locked(descriptor):
        other = os.read(descriptor, 4096).decode()
        os.close(descriptor)
        raise SimgapError(f"{other} is at work here; wait for it, or stop it")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, holder.encode())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Tries for a moment: a process that was killed needs one to let go."""
    until = time.monotonic() + SECONDS_TO_LET_GO
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
