"""Calls to a Qdrant server: where it is, how long they may take, and what their failures mean."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import structlog
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse

from services.kit.channels import OPTIONS
from services.kit.context import remaining
from services.kit.errors import DeadlineExceeded, Overloaded, ServiceError, Unavailable
from services.search.ports import IndexGone

log = structlog.get_logger()

T = TypeVar("T")

# Filters by prefix came with it. What a server doesn't know of a request it overlooks, and one before
# 1.16 so overlooks the condition of a write.
_OLDEST = (1, 19)
# Of what the server said, in a message to a caller.
_MOST_CHARACTERS = 300


@dataclass(frozen=True)
class ServerSettings:
    """Where the server is, and how its collections are made.

    ``catalog`` is an id that the catalog keeps: collections are marked with it, and none without
    this mark is ever used or deleted. Empty: forgotten collections are left to whoever runs the server.
    """

    url: str
    api_key: str = field(default="", repr=False)
    grpc_port: int = 6334
    prefix: str = "diapason-"
    catalog: str = ""
    # Zero: as the server thinks best.
    shards: int = 0
    replication_factor: int = 1
    # How many replicas must have a write before it counts. Zero: most of them.
    write_consistency_factor: int = 0
    # Seconds for one call, or what is left of the request's time if that is less.
    timeout: float = 10.0
    # A collection younger than this may be one that another replica is about to note in the catalog.
    settled_seconds: float = 3600.0


def connect(settings: ServerSettings) -> AsyncQdrantClient:
    """A client for the event loop; it connects when it is first used."""
    return AsyncQdrantClient(
        url=settings.url,
        grpc_port=settings.grpc_port,
        prefer_grpc=True,
        api_key=settings.api_key or None,
        timeout=math.ceil(settings.timeout),
        grpc_options=dict(OPTIONS),
        # It would ask by HTTP, from a thread of its own, and only to warn.
        check_compatibility=False,
    )


class Server:
    """Calls with their time-outs, and what their failures mean."""

    def __init__(self, client: AsyncQdrantClient, settings: ServerSettings) -> None:
        self.client = client
        self.settings = settings
        # With a write on most replicas, most replicas know of it whichever are asked.
        self.consistency = models.ReadConsistencyType.MAJORITY if settings.replication_factor > 1 else None
        self._is_new_enough = False

    async def call(self, name: str, start: Callable[[int], Awaitable[T]]) -> T:
        """Await what ``start`` makes of the time that it has, in whole seconds, for the collection named."""
        seconds = remaining(self.settings.timeout)
        try:
            async with asyncio.timeout(seconds):
                return await start(math.ceil(seconds))
        # In its local mode the client raises ValueError.
        except (grpc.RpcError, QdrantException, TimeoutError, ValueError) as error:
            raise await self._translated(error, name, seconds) from error

    async def write(self, name: str, start: Callable[[int], Awaitable[Any]]) -> None:
        """The same for a write, which is done when it is in the log of its shards and in effect."""
        answer = await self.call(name, start)
        for result in answer if isinstance(answer, list) else [answer]:
            if result.status is not models.UpdateStatus.COMPLETED:
                raise Unavailable("the vector database is too slow with writes; try again soon")

    async def check_version(self) -> None:
        """Raise ``ServiceError`` unless the server knows all that it will be asked."""
        if self._is_new_enough:
            return
        version = (await self.call("", lambda _: self.client.info())).version
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise ServiceError(f"the vector database is Qdrant {version}; run {oldest} or newer")
        self._is_new_enough = True

    async def info(self, name: str) -> models.CollectionInfo:
        """A collection as the server describes it. Raises ``IndexGone``."""
        return await self.call(name, lambda _: self.client.get_collection(name))

    async def _translated(self, error: Exception, name: str, seconds: float) -> ServiceError:
        code = error.code() if isinstance(error, grpc.RpcError) else None
        said = (error.details() if isinstance(error, grpc.RpcError) else str(error)) or type(error).__name__
        # Callers are not told where the server is, the log is.
        fault = log.bind(url=self.settings.url, collection=name, code=code and code.name, said=said)
        if isinstance(error, TimeoutError) or code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            if seconds < self.settings.timeout:
                return DeadlineExceeded("the vector database did not answer in the time that was left")
            fault.warning("the vector database is slow")
            return Unavailable(f"the vector database did not answer within {seconds:g} s; try again soon")
        if code is grpc.StatusCode.UNAVAILABLE:
            fault.warning("the vector database can't be reached")
            return Unavailable("the vector database can't be reached; see that it runs, then try again")
        if isinstance(error, ResourceExhaustedResponse):
            return Overloaded("the vector database is overloaded", float(error.retry_after_s))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded("the vector database is overloaded")
        if await self._is_gone(error, code, name):
            return IndexGone(f"the index {name!r} has just been dropped; try again")
        fault.error("the vector database refused a call")
        return ServiceError(f"the vector database refused a call: {said.splitlines()[0][:_MOST_CHARACTERS]}")

    async def _is_gone(self, error: Exception, code: grpc.StatusCode | None, name: str) -> bool:
        # Not found may also be a point, or something else that the collection lacks.
        if not name or not (code is grpc.StatusCode.NOT_FOUND or isinstance(error, ValueError)):
            return False
        try:
            async with asyncio.timeout(remaining(self.settings.timeout)):
                return not await self.client.collection_exists(name)
        except (grpc.RpcError, QdrantException, TimeoutError):
            return False
