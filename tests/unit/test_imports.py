"""Imports point one way: dags -> operators -> simgap's light part; cli -> worker -> stages -> kernels on top of it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "images" / "worker" / "simgap"
HEAVY = {"torch", "torchvision", "open_clip", "open_clip_train", "webdataset", "PIL", "scipy", "altair", "vl_convert"}
HEAVY |= {"resvg_py", "faiss"}
AIRFLOW = {"airflow"}
STORE = {"simgap.store", "simgap.runs", "simgap.task", "simgap.flow", "simgap.catalog"}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offences(files: Iterator[Path], forbidden: set[str]) -> list[str]:
    return sorted(
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in set(imports(file))
        if any(name == module or name.startswith(module + ".") for module in forbidden)
    )


def light_modules() -> set[str]:
    """What flow, reevaluation, show and checks bring in: the light part as it is, not as a list says it is."""
    brought = "simgap.checks, simgap.flow, simgap.reevaluation, simgap.show"
    code = f"import {brought}, sys; print(*[m for m in sys.modules if m.startswith('simgap')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("images/worker/simgap", AIRFLOW | {"operators", "dags"}),
        ("images/worker/simgap/kernels", STORE | {"simgap.stages", "simgap.cli", "simgap.worker", "obstore"}),
        ("images/worker/simgap/stages", {"simgap.cli", "simgap.worker", "simgap.flow"}),
        ("operators", HEAVY | {"simgap.stages", "simgap.kernels", "simgap.cli", "simgap.worker", "dags"}),
        ("dags", HEAVY | {"simgap.stages", "simgap.kernels", "simgap.cli", "simgap.worker"}),
    ],
)
def test_imports_point_one_way(folder: str, forbidden: set[str]) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    assert offences(iter(files), forbidden) == []


def test_the_light_part_is_light() -> None:
    light = light_modules()
    assert {
        "simgap.study",
        "simgap.store",
        "simgap.runs",
        "simgap.errors",
        "simgap.cells",
        "simgap.reevaluation",
    } <= light
    assert not {name for name in light if name.startswith(("simgap.stages.", "simgap.kernels."))}
    files = [PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in light if name != "simgap"]
    assert offences((file for file in files if file.exists()), HEAVY | AIRFLOW) == []


WITHOUT = """
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
{code}
"""


def run_without(absent: set[str], code: str, home: Path) -> None:
    """Runs Python code in a process that cannot import some packages. Fails with what it printed."""
    script = WITHOUT.format(absent=sorted(absent), code=code)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dags_import_without_the_workers_packages(tmp_path: Path) -> None:
    code = "\n".join(f"runpy.run_path({str(file)!r})" for file in sorted((ROOT / "dags").glob("*.py")))
    run_without(HEAVY, f"{code}\nimport simgap.flow, simgap.show, operators.console, operators.walk", tmp_path)


def test_a_finished_study_is_shown_without_airflow(tmp_path: Path) -> None:
    run_without(HEAVY | AIRFLOW, "import operators.console", tmp_path)


def test_the_worker_runs_without_airflow(tmp_path: Path) -> None:
    run_without(AIRFLOW, "import simgap.cli", tmp_path)


def test_certificates_are_checked_without_the_searchs_libraries(tmp_path: Path) -> None:
    run_without(HEAVY, "import simgap.stages.verify", tmp_path)
