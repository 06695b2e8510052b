"""What the servicers share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from diapason.common.v1.version_pb2 import VersionRef
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.registry import Registry

Context = grpc.aio.ServicerContext[object, object]

_WATCH_SECONDS = 0.25


async def changes(read: Callable[[], Any], until: set[str]) -> AsyncIterator[Any]:
    """The row now, and after each change until its state is one of ``until``."""
    revision = -1
    while True:
        row = await asyncio.to_thread(read)
        if row.revision != revision:
            revision = row.revision
            yield row
        if row.state in until:
            return
        await asyncio.sleep(_WATCH_SECONDS)


def find_version(registry: Registry, asked: VersionRef) -> PublishedVersion:
    """By digest, or by model and number. Raises ``InvalidArgument``, ``NotFound``."""
    if not asked.digest and not (asked.model and asked.number):
        raise InvalidArgument(Violation("version", "is missing; give a digest, or a model and a number"))
    return registry.version(asked.digest, asked.model, asked.number)


def find_reranker(registry: Registry, name: str) -> PublishedVersion:
    """The newest version of a reranker. Raises ``InvalidArgument``, ``NotFound``, ``FailedPrecondition``."""
    models = {model.name: (Kind(model.kind), newest) for model, newest in registry.models()}
    rerankers = [each for each, (kind, _) in models.items() if kind is Kind.RERANKER]
    there = f"there {'are' if len(rerankers) > 1 else 'is'} {', '.join(rerankers)}" if rerankers else "there is none"
    there += "; `diapason models register NAME SOURCE --reranker` imports one"
    if name not in models:
        raise NotFound("reranker", name, there)
    kind, newest = models[name]
    if kind is not Kind.RERANKER:
        raise InvalidArgument(Violation("reranker", f"is {name!r}, an encoder; {there}"))
    if newest is None:
        raise FailedPrecondition("NOT_PUBLISHED", name, f"{name!r} is not imported yet; wait for its run to end")
    return newest
