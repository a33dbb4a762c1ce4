"""open_clip's own training program, in this process, with four things made stricter.

- Its samples come through a scheme of ours, `simgap:<part>`, each part written by a process of `simgap.stages.stream`.
- Its reader logs an error and goes on; here the error ends the training.
- It shuffles samples by clock and process id; here by the process's random numbers, seeded for each epoch and part.
- Random numbers run on from epoch to epoch; here each epoch's follow from (seed, epoch), so resuming changes nothing.
"""

import logging
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip_train.data
import open_clip_train.main
import webdataset
from webdataset.gopen import gopen_schemes

from simgap.errors import SimgapError
from simgap.stages.stream import ERROR

Scalars = dict[str, float]


def train(
    argv: Sequence[str],
    folder: Path,
    seed: int,
    before_epoch: Callable[[int], None],
    after_epoch: Callable[[int], None],
    on_step: Callable[[int, Scalars], None],
) -> None:
    """Runs open_clip_train with these arguments on the plan in `folder`.

    `on_step` is given the global step and what open_clip logs of it, without the prefix "train/". Raises SimgapError
    when a sample is lost on its way.
    """
    parts = Parts(folder, seed)
    train_one_epoch = open_clip_train.main.train_one_epoch

    def one_epoch(model, data, loss, epoch, *rest, tb_writer=None) -> None:  # noqa: ANN001
        before_epoch(epoch)
        parts.epoch.value = epoch
        seed_everything(seed, epoch)
        train_one_epoch(model, data, loss, epoch, *rest, tb_writer=_Writer(on_step))
        after_epoch(epoch)

    with (
        _strict_reader(parts),
        _root_logger_restored(),
        patch.object(open_clip_train.main, "train_one_epoch", one_epoch),
    ):
        try:
            failed = open_clip_train.main.main(list(argv))
        except Exception as error:
            if told := _told(folder):
                raise SimgapError(told) from error
            raise
        if failed:
            raise SimgapError("open_clip's training program refused to start; its log says why")


class Parts:
    """Opens `simgap:<part>` for webdataset, in whichever process reads it; each part of an epoch once."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.epoch = multiprocessing.Value("i", 0)
        self._folder, self._seed, self._opened = folder, seed, set()

    def __call__(self, url: str, mode: str = "rb", bufsize: int = 0) -> "_Reader":
        epoch, part = self.epoch.value, int(url.partition(":")[2])
        if (epoch, part) in self._opened:
            raise SimgapError(f"epoch {epoch}, part {part}: open_clip's reader lost samples on their way")
        self._opened.add((epoch, part))
        seed_everything(self._seed, epoch, part)
        return _Reader(self._folder, epoch, part)


class _Reader:
    """The tar that a stream process writes; its end is an error when the process failed."""

    def __init__(self, folder: Path, epoch: int, part: int) -> None:
        command = [sys.executable, "-m", "simgap.stages.stream", str(folder), str(epoch), str(part)]
        self._folder, self._process = folder, subprocess.Popen(command, stdout=subprocess.PIPE)

    def read(self, size: int = -1) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if not data and (status := self._process.wait()):
            raise SimgapError(_told(self._folder) or f"the stream of samples ended with exit status {status}")
        return data


class _Writer:
    """What open_clip takes for tensorboard: gathers a step's scalars, `loss` being the last of them."""

    def __init__(self, on_step: Callable[[int, Scalars], None]) -> None:
        self._on_step, self._scalars = on_step, {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._scalars[name.removeprefix("train/")] = value
        if name == "train/loss":
            self._on_step(step, self._scalars)
            self._scalars = {}


def seed_everything(*numbers: int) -> None:
    digest = sha256("/".join(map(str, numbers)).encode()).digest()
    open_clip_train.main.random_seed(int.from_bytes(digest[:4]))


def _told(folder: Path) -> str | None:
    """What a stream process wrote down of its failure; the way through data workers would garble it."""
    path = folder / ERROR
    return path.read_text() if path.exists() else None


def _raise(error: Exception) -> bool:
    raise error


@contextmanager
def _strict_reader(open_part: Parts) -> Iterator[None]:
    data = open_clip_train.data
    with ExitStack() as stack:
        stack.enter_context(patch.dict(gopen_schemes, {"simgap": open_part}))
        stack.enter_context(patch.object(webdataset, "shuffle", partial(webdataset.shuffle, rng=random)))
        stack.enter_context(patch.object(data, "log_and_continue", _raise))
        strict: Any = partial(data.tarfile_to_samples_nothrow, handler=_raise)
        stack.enter_context(patch.object(data, "tarfile_to_samples_nothrow", strict))
        yield


@contextmanager
def _root_logger_restored() -> Iterator[None]:
    """open_clip adds handlers to the root logger, one of them a file, and sets every logger's level."""
    root = logging.root
    handlers, levels = list(root.handlers), {name: logging.getLogger(name).level for name in root.manager.loggerDict}
    level = root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
