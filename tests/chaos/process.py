"""One life of a search process: started on a folder, used, killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from diapason.client import Addresses, Client
from tests.chaos.oracle import Violation

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0
_POLL_SECONDS = 0.01
_CALL_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """What every life of one seed is told."""

    folder: Path
    catalog_url: str
    embedder_address: str
    feedback_address: str

    def environment(self) -> dict[str, str]:
        """The process's environment."""
        return {
            **os.environ,
            "DIAPASON_LISTEN": "127.0.0.1:0",
            "DIAPASON_EMBEDDER_ADDRESS": self.embedder_address,
            "DIAPASON_FEEDBACK_ADDRESS": self.feedback_address,
            "DIAPASON_CATALOG_URL": self.catalog_url,
            "DIAPASON_INDEXES_DIR": str(self.folder / "indexes"),
        }


class Life:
    """A process from its start to its end. Each listens on a port of its own, so no call reaches the next one."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.number = number
        self.log = settings.folder / f"search-{number}.log"
        self.killed = threading.Event()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.search"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=settings.environment(),
                cwd=_ROOT,
            )
        self._client: Client | None = None
        self._stopping = False

    @property
    def client(self) -> Client:
        """Calls to this process. Only after `wait_until_ready`."""
        assert self._client is not None
        return self._client

    def wait_until_ready(self) -> None:
        """Return once it serves. Raises ``Violation`` if it ends or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while not (self._connect() and self.client.health("search") == "SERVING"):
            self.check()
            if time.monotonic() > deadline:
                raise Violation(f"life {self.number} did not become ready in {_START_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise ``Violation`` if it ended by itself."""
        status = self._process.poll()
        if status is not None and not self.killed.is_set():
            raise Violation(f"life {self.number} ended by itself with status {status}: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill it, at once. May be called from any thread, and again."""
        self.killed.set()
        self._process.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end: it answers what is on its way first, and takes nothing new."""
        self._stopping = True
        self.killed.set()
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill it, unless it was asked to end and does."""
        if not self._stopping:
            self.kill()

    def kill_after(self, seconds: float) -> None:
        """Kill it so long from now. Raises ``Violation`` if it ends by itself before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.check()
        self.kill()
        self.bury()

    def bury(self) -> None:
        """Wait until nothing of it is left. Raises ``Violation`` if it does not end as it should."""
        try:
            status = self._process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise Violation(f"life {self.number} did not end in {_START_SECONDS:.0f} s") from error
        if status not in (0, -signal.SIGKILL):
            raise Violation(f"life {self.number} ended with status {status}: {self.log.read_text()[-2000:]}")

    def close(self) -> None:
        """Let go of the client."""
        if self._client:
            self._client.close()

    def _connect(self) -> bool:
        if self._client is None:
            for line in self.log.read_text().splitlines():
                if '"listening"' in line and line.endswith("}"):
                    address = f"127.0.0.1:{json.loads(line)['port']}"
                    self._client = Client(Addresses(search=address), timeout=_CALL_SECONDS)
        return self._client is not None
