"""Ties a process to its parent: `python -m operators.tether PARENT_PID MODULE ARGUMENTS...`

The module is killed when its parent ends, however that ends: a parent that got SIGKILL cannot clean up after itself.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def tether(parent: int) -> None:
    """Has the kernel kill this process when its parent's thread ends; elsewhere than on Linux, does nothing."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module tethered to this process."""
    return [sys.executable, "-m", "operators.tether", str(os.getpid()), module, *arguments]


if __name__ == "__main__":
    tether(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
