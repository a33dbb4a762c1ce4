"""Where the numbers are computed: a GPU where there is one, otherwise the CPU."""

from typing import Any

import torch


def device() -> str:
    """As torch names it."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def environment(dtype: str = "float32") -> dict[str, Any]:
    """The numeric environment: recorded with what was made, never hashed."""
    kind = torch.cuda.get_device_name() if device() == "cuda" else "cpu"
    return {"device": kind, "torch": torch.__version__, "dtype": dtype, "threads": torch.get_num_threads()}
