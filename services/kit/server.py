"""One way to run a gRPC service: start, become ready, serve, drain on SIGTERM, stop."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.kit import logs, metrics, tracing
from services.kit.channels import MAX_MESSAGE_BYTES
from services.kit.interceptors import RequestInterceptor
from services.kit.settings import ServiceSettings, load

log = structlog.get_logger()

LIVENESS, READINESS = "liveness", "readiness"
_BLOCKING_THREADS = 32
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class CannotStart(Exception):
    """What a service was told to use can't be used; the message says why and what to do."""


class Host:
    """What a service's composition root is given to plug itself into."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.server = grpc.aio.server(
            interceptors=[RequestInterceptor(settings.request_timeout_seconds)],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Channels of ours ping every 30 s (`channels.py`), also while a stream is silent.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
                # Two processes on one port would share its connections unnoticed.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self._work: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = asyncio.Event()
        self.stopping = asyncio.Event()

    def serve(self, name: str, add: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Add a servicer; ``name`` is its full service name."""
        add(servicer, self.server)
        self._names.append(name)

    def background(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` beside the server while it serves. If it ends by an error, so does the process."""
        self._work.append((name, work))

    async def _guard(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("background work failed; the service stops", work=name)
            self._failed.set()
            self.stopping.set()

    async def set_ready(self, ready: bool) -> None:
        """Tell health checks whether requests should be sent here."""
        for name in ("", READINESS, *self._names):
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)

    async def start(self, address: str) -> int:
        """Listen, not ready yet. Returns the port. Raises ``OSError`` if the address can't be had."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self.server)
        await self.set_ready(False)
        await self._health.set(LIVENESS, _SERVING)
        try:
            port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}; another program may have it") from error
        await self.server.start()
        self._tasks = [asyncio.create_task(self._guard(name, work), name=name) for name, work in self._work]
        return port

    async def stop(self, grace: float) -> bool:
        """Refuse new requests, let those in flight finish, end background work. False if one had failed."""
        await self.set_ready(False)
        await self.server.stop(grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return not self._failed.is_set()


Settings = TypeVar("Settings", bound=ServiceSettings)
Build = Callable[[Settings, Host], AbstractAsyncContextManager[None]]


async def _serve(name: str, settings: Settings, build: Build[Settings]) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_BLOCKING_THREADS, thread_name_prefix="blocking"))
    host = Host(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, host.stopping.set)
    try:
        return await _serve_built(name, settings, build, host)
    except CannotStart as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2


async def _serve_built(name: str, settings: Settings, build: Build[Settings], host: Host) -> int:
    async with build(settings, host):
        try:
            port = await host.start(settings.listen)
            if settings.metrics_listen:
                metrics.listen(settings.metrics_listen)
        except OSError as error:
            sys.stderr.write(f"{name}: {error}\n")
            return 2
        log.info("listening", address=settings.listen, port=port)
        await host.stopping.wait()
        log.info("draining", seconds=settings.drain_seconds)
        clean = await host.stop(settings.drain_seconds)
    log.info("stopped")
    return 0 if clean else 1


def run(name: str, kind: type[Settings], build: Build[Settings]) -> int:
    """Read the settings, run the service until SIGTERM or SIGINT, and return its exit status."""
    settings = load(kind, f"services.{name}", sys.argv[1:])
    logs.configure(name, settings.log_level, settings.log_format)
    try:
        tracing.configure(name)
    except tracing.NotInstalled as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    return asyncio.run(_serve(name, settings, build))
