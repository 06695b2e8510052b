"""One inference process, as seen from the embedder: start it, give it batches, notice its end."""

import asyncio
import contextvars
import itertools
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

import structlog

from diapason import vectors
from services.embedder.worker import frames
from services.embedder.worker.frames import Header, LoadSpec
from services.embedder.worker.runtime import BadVersion, Cut, Outcome, Output, Passages, Work

log = structlog.get_logger()

_KINDS = {str: "texts", tuple: "pairs", Cut: "cuts"}
_MODULE = "services.embedder.worker"
# A forward pass is bounded by the batch's tokens; one that takes this long will not end.
HUNG_SECONDS = 120.0
# Compiling the largest models that fit a CPU takes minutes.
LOAD_SECONDS = 600.0
_CLOSE_SECONDS = 5.0


class WorkerLost(Exception):
    """The process ended, or was ended because it hung, before it had answered."""


class BatchFailed(Exception):
    """The process could not compute this batch; it lives on. Says the error's name; ``trace`` is for the log."""

    def __init__(self, name: str, trace: str = "") -> None:
        super().__init__(name)
        self.trace = trace


Answered = Callable[[Outcome | Exception], None]


@dataclass
class _Pending:
    answered: Answered
    watchdog: asyncio.TimerHandle


class Worker(asyncio.Protocol):
    """A process that has loaded its version. Used from the event loop only."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._decoder = frames.Decoder()
        self._numbers = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._stopping = False
        self._on_lost: Callable[[str], None] = lambda how: None
        self._loaded: asyncio.Future[Header] = asyncio.get_running_loop().create_future()
        self._ending: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def start(cls, what: LoadSpec) -> Self:
        """Start a process and have it load. Raises ``BadVersion``, or ``WorkerLost`` if it ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", _MODULE, str(theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        worker = cls(process)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        try:
            worker._write(asdict(what))
            try:
                async with asyncio.timeout(LOAD_SECONDS):
                    answer = await worker._loaded
            except TimeoutError as error:
                raise WorkerLost(f"it was not loaded within {LOAD_SECONDS:.0f} s") from error
            if "refused" in answer:
                raise BadVersion(answer["refused"])
        except BaseException:
            await worker.stop()
            raise
        return worker

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with how it ended, if it ends before `stop`."""
        self._on_lost = callback

    def submit(self, inputs: Sequence[Work], wide: bool, answered: Answered) -> None:
        """Send a batch of one kind. ``answered`` gets its ``Outcome``, ``BatchFailed`` or ``WorkerLost``."""
        number = next(self._numbers)
        watchdog = asyncio.get_running_loop().call_later(HUNG_SECONDS, self.kill)
        self._pending[number] = _Pending(answered, watchdog)
        self._write({"id": number, "wide": wide, _KINDS[type(inputs[0])]: inputs})

    def kill(self) -> None:
        """End it at once; what it is at is lost."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def resident_bytes(self) -> int:
        """Memory of the process, where the system tells."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    async def stop(self) -> None:
        """End the process and wait for it, so that its memory is back."""
        self._stopping = True
        if self._transport:
            self._transport.close()
        await self._ended(_CLOSE_SECONDS)
        if self._ending:
            await self._ending

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of `asyncio.Protocol`: answers, handed on at once."""
        for header, body in self._decoder.feed(data):
            if not self._loaded.done():
                self._loaded.set_result(header)
                continue
            pending = self._pending.pop(header["id"])
            pending.watchdog.cancel()
            pending.answered(_outcome(header, body))

    def connection_lost(self, error: Exception | None) -> None:
        """Of `asyncio.Protocol`: the process has ended, or what came from it could not be understood."""
        # In no request's context, though it may be noticed in one.
        self._ending = asyncio.create_task(self._end(), context=contextvars.Context())

    async def _end(self) -> None:
        how = await self._ended(0.0 if not self._stopping else _CLOSE_SECONDS)
        if not self._loaded.done():
            self._loaded.set_exception(WorkerLost(f"its process ended while loading ({how})"))
        elif not self._stopping:
            self._on_lost(how)
        lost, self._pending = self._pending, {}
        for pending in lost.values():
            pending.watchdog.cancel()
            pending.answered(WorkerLost(how))

    async def _ended(self, patience: float) -> str:
        """Wait for the end of the process, killing it when patience is out; returns how it ended."""
        try:
            async with asyncio.timeout(patience):
                status = await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            status = await self._process.wait()
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    def _write(self, header: Header) -> None:
        assert self._transport is not None  # made with the connection
        self._transport.write(frames.encode(header))


def _outcome(header: Header, body: bytes) -> Outcome | BatchFailed:
    if "error" in header:
        return BatchFailed(header["error"], header["trace"])
    if "passages" in header:
        return [Passages([(start, end) for start, end in spans]) for spans in header["passages"]]
    tokens = header["tokens"]
    return Output(
        rows=vectors.from_bytes(body, len(body) // 4 // len(tokens)),
        tokens=tokens,
        truncated=header["truncated"],
        padded_tokens=header["padded_tokens"],
        tokenization=header["tokenization"],
        inference=header["inference"],
    )
