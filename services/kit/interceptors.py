"""What happens around every call: request id, deadline, span, metrics, one log line, and the error table."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from opentelemetry.trace import INVALID_SPAN, Span

from services.kit import context as request_context
from services.kit import errors, status, tracing
from services.kit.metrics import MethodMetrics

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
# Methods of gRPC's own services (health, reflection) are passed through as they are.
_OWN = "/grpc."


class RequestInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and streaming handlers alike; handlers are coroutines or async generators."""

    def __init__(self, default_timeout: float) -> None:
        self._default_timeout = default_timeout
        self._metrics: dict[str, MethodMetrics] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler with the wrapping around it."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OWN):
            return handler
        if details.method not in self._metrics:
            self._metrics[details.method] = MethodMetrics(details.method)
        call = _Call(details, self._metrics[details.method])
        if handler.response_streaming:
            wrap = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behaviour: Any = call.streaming(handler.stream_stream or handler.unary_stream)
        else:
            wrap = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            # What a caller streams takes as long as it takes, as in the other direction.
            most = None if handler.request_streaming else self._default_timeout
            behaviour = call.unary(handler.stream_unary or handler.unary_unary, most)
        return wrap(behaviour, handler.request_deserializer, handler.response_serializer)


class _Call:
    """One call of one method."""

    def __init__(self, details: grpc.HandlerCallDetails, metrics: MethodMetrics) -> None:
        self._details = details
        self._metrics = metrics
        self._started = 0.0
        self._span: Span = INVALID_SPAN

    def unary(
        self, behaviour: Callable[[Any, Context], Awaitable[Any]], most: float | None
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def handle(request: Any, context: Context) -> Any:
            given = context.time_remaining()
            seconds = min((limit for limit in (given, most) if limit is not None), default=None)
            self._begin(context, seconds)
            with self._metrics.serving():
                try:
                    async with asyncio.timeout(seconds):
                        response = await behaviour(request, context)
                except BaseException as error:
                    await self._fail(error, context)
                    raise
                self._end("OK")
                return response

        return handle

    def streaming(
        self, behaviour: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            self._begin(context, context.time_remaining())
            with self._metrics.serving():
                try:
                    async for response in behaviour(request, context):
                        yield response
                except BaseException as error:
                    await self._fail(error, context)
                    raise
                self._end("OK")

        return handle

    def _begin(self, context: Context, seconds: float | None) -> None:
        self._started = time.perf_counter()
        metadata = self._details.invocation_metadata
        offered = next((str(v) for k, v in metadata if k == request_context.REQUEST_ID_KEY), None)
        identity = request_context.begin(offered, seconds)
        self._span = tracing.begin(self._details.method, metadata)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=identity)
        # Trailing, since initial metadata would commit the call and end the client's retries.
        context.set_trailing_metadata(((request_context.REQUEST_ID_KEY, identity),))

    async def _fail(self, error: BaseException, context: Context) -> None:
        identity = request_context.request_id()
        match error:
            case grpc.aio.AbortError():
                self._end(str(context.code()))
            case asyncio.CancelledError() | GeneratorExit():
                self._end("CANCELLED")
            case TimeoutError():
                self._end("DEADLINE_EXCEEDED")
                late = errors.DeadlineExceeded("the time given for this request was not enough")
                await context.abort_with_status(status.to_status(late, identity))
            case errors.ServiceError() if status.code_of(error) is not grpc.StatusCode.INTERNAL:
                self._end(status.code_of(error).name, error=error.message)
                await context.abort_with_status(status.to_status(error, identity))
            case Exception():
                log.exception("request failed", method=self._details.method)
                self._end("INTERNAL")
                await context.abort_with_status(status.internal(identity))
            case _:
                pass

    def _end(self, code: str, **more: str) -> None:
        seconds = time.perf_counter() - self._started
        self._metrics.ended(code, seconds)
        tracing.end(self._span, code)
        log.info("request", method=self._details.method, code=code, ms=round(seconds * 1e3, 2), **more)
