"""Progress of long work: a bar on a terminal, elsewhere a line that people and programs can read."""

import json
import sys
import time

SECONDS_BETWEEN = 0.5
PREFIX = "progress "
_last: dict[str, float] = {}


def report(run: str, done: int, total: int, of: str, note: str) -> None:
    """Prints where a run stands, at most twice a second, and always at its end."""
    now = time.monotonic()
    if done < total and now - _last.get(run, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
        return
    _last[run] = now
    if sys.stdout.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{run} {done:,}/{total:,} {of} {note}\033[K", end=end, flush=True)
    else:
        fields = {"run": run, "done": done, "total": total, "of": of, "note": note}
        print(PREFIX + json.dumps(fields), flush=True)
