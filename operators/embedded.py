"""The embedded default: Airflow on one machine with SQLite and processes, all of it under one folder, `.simgap/`."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from simgap.errors import SimgapError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Home:
    """Where an embedded Airflow keeps what it has, the DAGs it runs, and the port of its API on 127.0.0.1."""

    path: Path
    dags: Path = ROOT / "dags"
    port: int = 8080
    units_at_once: int = 2

    @classmethod
    def from_environment(cls) -> "Home":
        """`.simgap` under the working directory; SIMGAP_AIRFLOW_PORT and SIMGAP_UNITS_AT_ONCE change the numbers."""
        return cls(
            path=Path.cwd() / ".simgap",
            port=_number("SIMGAP_AIRFLOW_PORT", cls.port),
            units_at_once=_number("SIMGAP_UNITS_AT_ONCE", cls.units_at_once),
        )

    @property
    def airflow(self) -> Path:
        return self.path / "airflow"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def progress(self) -> Path:
        return self.path / "progress"

    @property
    def store(self) -> str:
        return os.environ.get("SIMGAP_STORE") or (self.path / "store").as_uri()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The whole environment of the embedded Airflow's processes; settings of any other Airflow are left out."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        return kept | self._settings() | self._places(kept)

    def prepare(self) -> None:
        """Makes the folders and Airflow's database, or brings it to the installed version; once for each version."""
        self.airflow.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        mark = self.airflow / "database-version"
        installed = version("apache-airflow")
        if mark.exists() and mark.read_text() == installed:
            return
        log = self.logs / "database.log"
        with log.open("ab") as file:
            migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
            done = subprocess.run(migrate, env=self.environment(), stdout=file, stderr=file, check=False)
        if done.returncode != 0:
            raise SimgapError(f"Airflow's database in {self.airflow} could not be made; see {log}")
        mark.write_text(installed)

    def _settings(self) -> dict[str, str]:
        sections = {
            "CORE": {
                "DAGS_FOLDER": self.dags,
                "DAGS_ARE_PAUSED_AT_CREATION": False,
                "EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
                "EXECUTOR": "LocalExecutor",
                "LOAD_EXAMPLES": False,
                "PARALLELISM": self.units_at_once,
                "PLUGINS_FOLDER": Path(__file__).with_name("plugins"),
                "SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,  # no login: the API listens on 127.0.0.1 alone
            },
            "API": {"HOST": "127.0.0.1", "PORT": self.port, "BASE_URL": self.url, "WORKERS": 1},
            "DATABASE": {"SQL_ALCHEMY_CONN": f"sqlite:///{self.airflow / 'airflow.db'}"},
            "DAG_PROCESSOR": {
                "DAG_VERSION_INFLATION_CHECK_LEVEL": "error",
                "MIN_FILE_PROCESS_INTERVAL": 10,
                "REFRESH_INTERVAL": 5,
            },
            "LOGGING": {"BASE_LOG_FOLDER": self.airflow / "logs"},
            "SCHEDULER": {
                "ORPHANED_TASKS_CHECK_INTERVAL": 30,  # seconds until what a killed scheduler left queued or running is taken up
                "SCHEDULER_IDLE_SLEEP_TIME": 0.3,
                "TASK_INSTANCE_HEARTBEAT_TIMEOUT": 60,  # seconds until what a kill cut off is tried again
            },
            "USAGE_DATA_COLLECTION": {"ENABLED": False},
            "WORKERS": {
                "MIN_HEARTBEAT_INTERVAL": 1,  # a worker may notice a task's end so much later, and takes no other until then
                "MAX_FAILED_HEARTBEATS": 15,
            },
        }
        return {
            f"AIRFLOW__{section}__{name}": str(value)
            for section, settings in sections.items()
            for name, value in settings.items()
        }

    def _threads(self) -> int:
        """A unit's share of the cores. More threads than that wait for each other: a tiny model embeds 20 times slower."""
        return max(1, (os.cpu_count() or 1) // self.units_at_once)

    def _places(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.airflow),
            "OMP_NUM_THREADS": inherited.get("OMP_NUM_THREADS") or str(self._threads()),
            "PATH": _joined(Path(sys.executable).parent, inherited.get("PATH")),
            "PYTHONPATH": _joined(ROOT, inherited.get("PYTHONPATH")),
            "SIMGAP_PROGRESS": str(self.progress),
            "SIMGAP_STORE": self.store,
        }


def _joined(first: Path, rest: str | None) -> str:
    return os.pathsep.join([str(first), *([rest] if rest else [])])


def _number(name: str, default: int) -> int:
    given = os.environ.get(name, str(default))
    if not given.isdecimal() or int(given) == 0:
        raise SimgapError(f"{name}={given}: has to be a whole number above 0")
    return int(given)
