"""What a person sees of a DAG run: a line for each stage that is done, a bar for each that is under way."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from operators.feed import Event

LABEL_WIDTH = 17
WIDEST = 110


@dataclass
class Bar:
    """How far one run of a stage is, and since when that is known."""

    since: float
    first: int
    now: float = 0
    done: int = 0
    total: int = 0
    of: str = ""
    note: str = ""

    @property
    def per_second(self) -> float:
        return (self.done - self.first) / (self.now - self.since) if self.now > self.since else 0.0

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.per_second if self.per_second else None


@dataclass
class Stage:
    """A stage under way: how many of its jobs are done, and its runs' bars."""

    jobs: int
    jobs_done: int = 0
    bars: dict[str, Bar] = field(default_factory=dict)


class Board:
    """Hears a feed's events; knows what is under way, and what failed in the end."""

    def __init__(self, width: int = WIDEST) -> None:
        self._width = min(width, WIDEST)
        self.under_way: dict[str, Stage] = {}
        self.failed = False

    def hear(self, events: Iterable[Event]) -> Iterator[Text]:
        """Takes events in; yields the lines to print for good."""
        for event in events:
            if line := getattr(self, f"_{event['event']}")(event):
                yield line

    def rows(self) -> Iterator[tuple[str, str, Bar | None]]:
        """Label, words and bar of everything under way."""
        for group, stage in self.under_way.items():
            count = f"{stage.jobs_done}/{stage.jobs} " if stage.jobs > 1 else ""
            for run, bar in stage.bars.items():
                yield label(group), f"{count}{_name(run)}  {bar.note}".rstrip(), bar
            if not stage.bars:
                yield label(group), count.rstrip(), None

    def _plan(self, event: Event) -> Text | None:
        if event["jobs"]:
            self.under_way[event["group"]] = Stage(event["jobs"])
        elif runs := list(event["requests"].values()):
            what = runs[0] if len(runs) == 1 else f"{len(runs)} runs"
            return line("=", event["group"], f"already done ({what})", "dim")
        return None

    def _progress(self, event: Event) -> None:
        stage = self.under_way.setdefault(event["group"], Stage(1))
        bar = stage.bars.get(event["run"])
        if bar is None or event["done"] < bar.done:  # a new try, or the next part, starts over
            bar = stage.bars[event["run"]] = Bar(since=event["time"], first=event["done"])
        bar.now, bar.done, bar.total = event["time"], event["done"], event["total"]
        bar.of, bar.note = event["of"], event["note"]

    def _unit(self, event: Event) -> None:
        stage = self.under_way.setdefault(event["group"], Stage(1))
        stage.jobs_done += 1
        for run in event["runs"]:
            stage.bars.pop(run, None)

    def _commit(self, event: Event) -> Text | None:
        known = self.under_way.pop(event["group"], None)
        if known is None:
            return None
        text = line("✓", event["group"], event["line"], "green")
        text.append(f"  {duration(event['seconds'])}".rjust(max(0, self._width - text.cell_len)), "dim")
        return text

    def _failed(self, event: Event) -> Text:
        if not event["final"]:
            return line("!", event["group"], f"{event['message']} (will be tried again)", "yellow")
        self.failed = True
        self.under_way.pop(event["group"], None)
        return line("✗", event["group"], event["message"], "red")


def line(mark: str, group: str, words: str, style: str) -> Text:
    """` ✓ ingest    pool 34,652 ...`"""
    return Text.assemble(" ", (mark, style), f" {label(group):<{LABEL_WIDTH}} ", words)


def bars(board: Board, width: int) -> Table:
    """What is under way, a row each, for a terminal."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for group, words, bar in board.rows():
        size = max(10, min(40, width - 80))
        drawn = ProgressBar(bar.total, bar.done, size) if bar else ProgressBar(None, width=size, pulse=True)
        grid.add_row(Text(f" ▸ {group:<{LABEL_WIDTH - 1}}"), words, drawn, *(_speed(bar) if bar else ()))
    return grid


def plain(board: Board) -> Iterator[str]:
    """What is under way, a line each, where there is no terminal."""
    for group, words, bar in board.rows():
        percent = f"{bar.done / max(1, bar.total):.0%}" if bar else ""
        yield f" ▸ {group:<{LABEL_WIDTH}} " + "  ".join(filter(None, [words, percent, *(_speed(bar) if bar else ())]))


def label(group: str) -> str:
    return group.replace("_", " ")


def duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def _speed(bar: Bar) -> list[str]:
    left = bar.seconds_left
    clock = f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f} left" if left is not None else ""
    return [f"{bar.per_second:,.0f} {bar.of}/s" if bar.per_second else "", clock]


def _name(run: str) -> str:
    """`runs/train/sketch-pruned-0-3f9a1c2e` -> `sketch-pruned-0`"""
    return run.rpartition("/")[2].rpartition("-")[0]
