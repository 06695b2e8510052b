"""A feedback process that is killed again and again, and writers who send each batch until it is acknowledged."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diapason.client import Addresses, Client
from diapason.errors import DiapasonError
from diapason.feedback.v1.feedback_pb2 import SIGNAL_THUMBS_UP, Feedback, QuerySubject
from tests.conftest import free_base_port

_ROOT = Path(__file__).parents[2]
_SECONDS = 60.0
_WRITERS = 4
_MOST_BATCH = 100


@dataclass(frozen=True)
class Outcome:
    """What a run came to. ``late``: events that were stored, but whose acknowledgement the kill had taken."""

    kills: int
    acknowledged: int
    broken_calls: int
    late: int


class Writers:
    """Threads that send batches, each again until it is acknowledged."""

    def __init__(self, address: str, seed: int) -> None:
        self._address, self._seed = address, seed
        self._changed = threading.Condition()
        self._ending = False
        # Cleared while what is stored is compared, which takes the longer the more there is.
        self.free = threading.Event()
        self.free.set()
        self.acknowledged: set[str] = set()
        self.broken, self.late = 0, 0
        self.failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(_WRITERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> set[str]:
        """Return once so many more events are acknowledged, with all that are by then."""
        with self._changed:
            goal = len(self.acknowledged) + more
            done = self._changed.wait_for(lambda: self.failure or len(self.acknowledged) >= goal, _SECONDS)
            assert self.failure is None, self.failure
            assert done, f"no {more} more events were acknowledged in {_SECONDS} s"
            return set(self.acknowledged)

    def stop(self) -> None:
        """Have each finish its batch."""
        self._ending = True
        self.free.set()

    def end(self) -> None:
        """The same, and wait for them."""
        self.stop()
        for thread in self._threads:
            thread.join(_SECONDS)
            assert not thread.is_alive()
        assert self.failure is None, self.failure

    def _work(self, number: int) -> None:
        chance = random.Random(self._seed * 1_000 + number)
        try:
            with Client(Addresses(feedback=self._address), timeout=10) as client:
                count = 0
                while self.free.wait() and not self._ending:
                    size = chance.randint(1, _MOST_BATCH)
                    self._send(client, [item(f"{number}-{count + i}") for i in range(size)])
                    count += size
        except BaseException as error:
            self.failure = error
            raise

    def _send(self, client: Client, batch: list[Feedback]) -> None:
        first = True
        ends = time.monotonic() + _SECONDS
        while True:
            try:
                receipts = client.submit(batch)
                break
            except DiapasonError:
                if time.monotonic() > ends:
                    raise
                with self._changed:
                    self.broken += first
                first = False
        with self._changed:
            self.late += sum(receipt.duplicate for receipt in receipts)
            self.acknowledged |= {each.idempotency_key for each in batch}
            self._changed.notify_all()


def item(key: str) -> Feedback:
    """One event, which says its key in all that it says."""
    subject = QuerySubject(collection="killed", text=f"query {key}")
    return Feedback(
        idempotency_key=key, query=subject, document_id=f"document {key}", signal=SIGNAL_THUMBS_UP, actor=f"u{key}"
    )


def run(folder: Path, kills: int, seed: int, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Kill so many times, at moments by the seed; raises ``AssertionError`` if an acknowledged event is not there."""
    chance, port = random.Random(seed), free_base_port() + 1
    address = f"127.0.0.1:{port}"
    writers = Writers(address, seed)
    with Client(Addresses(feedback=address), timeout=30) as client:
        process = start(folder, port, client)
        try:
            writers.start()
            for kill in range(kills):
                before = writers.wait_for(chance.randint(1, 3_000))
                process.send_signal(signal.SIGKILL)
                assert process.wait(_SECONDS) == -signal.SIGKILL
                process = start(folder, port, client)
                writers.free.clear()
                stored = keys(client)
                writers.free.set()
                assert before <= set(stored), f"lost: {sorted(before - set(stored))[:5]}"
                tell(f"kill {kill + 1}: {len(before)} acknowledged, {len(stored)} stored, none lost")
            writers.wait_for(1)
            writers.end()
            check(client, writers.acknowledged)
        finally:
            writers.stop()
            process.kill()
            process.wait(_SECONDS)
    return Outcome(kills, len(writers.acknowledged), writers.broken, writers.late)


def check(client: Client, acknowledged: set[str]) -> None:
    """All that was acknowledged is there once, whole, and nothing else; and sending it again stores nothing."""
    stored = list(client.feedback("killed"))
    found = [each.feedback.idempotency_key for each in stored]
    assert set(found) == acknowledged, f"lost or never sent: {sorted(set(found) ^ acknowledged)[:5]}"
    assert len(found) == len(acknowledged), "some are there twice"
    assert len({each.number for each in stored}) == len(stored)
    for each in stored:
        sent = item(each.feedback.idempotency_key)
        assert (each.query, each.feedback.document_id) == (sent.query.text, sent.document_id)
    again = sorted(acknowledged)[:500]
    assert all(receipt.duplicate for receipt in client.submit([item(key) for key in again]))


def keys(client: Client) -> list[str]:
    """The keys of all that is stored."""
    return [each.feedback.idempotency_key for each in client.feedback("killed")]


def start(folder: Path, port: int, client: Client) -> "subprocess.Popen[bytes]":
    """The service in a process of its own, once it serves."""
    environment = {
        **os.environ,
        "DIAPASON_LISTEN": f"127.0.0.1:{port}",
        "DIAPASON_DATABASE_URL": f"sqlite:///{folder / 'feedback.db'}",
        "DIAPASON_LOG_LEVEL": "ERROR",
    }
    with (folder / "feedback.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.feedback"], env=environment, cwd=_ROOT, stdout=log, stderr=log
        )
    ends = time.monotonic() + _SECONDS
    while client.health("feedback") != "SERVING":
        assert process.poll() is None, (folder / "feedback.log").read_text()[-2_000:]
        assert time.monotonic() < ends, "feedback did not become ready"
        time.sleep(0.02)
    return process
