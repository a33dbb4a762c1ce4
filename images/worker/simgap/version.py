"""Which code this is."""

import os
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """The release, with the git commit where there is one: from the image's label, or from the checkout."""
    if commit := os.environ.get("SIMGAP_COMMIT"):
        return f"{version('simgap')}+{commit}"
    here = Path(__file__).parent
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return version("simgap") + (f"+{asked.stdout.strip()}" if asked.returncode == 0 else "")
