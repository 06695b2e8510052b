"""What happens around every call: request id, deadline, one log line, and the error table."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from services.kit import context as request_context
from services.kit import errors, status

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
# Methods of gRPC's own services (health, reflection) are passed through as they are.
_OWN = "/grpc."


class RequestInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and streaming handlers alike; handlers are coroutines or async generators."""

    def __init__(self, default_timeout: float) -> None:
        self._default_timeout = default_timeout

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler with the wrapping around it."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OWN):
            return handler
        offered = next((str(v) for k, v in details.invocation_metadata if k == request_context.REQUEST_ID_KEY), None)
        call = _Call(details.method, offered, self._default_timeout)
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
            behaviour = call.unary(handler.stream_unary or handler.unary_unary)
        return wrap(behaviour, handler.request_deserializer, handler.response_serializer)


class _Call:
    """One call of one method."""

    def __init__(self, method: str, offered_id: str | None, default_timeout: float) -> None:
        self._method = method
        self._offered_id = offered_id
        self._default_timeout = default_timeout

    def unary(self, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def handle(request: Any, context: Context) -> Any:
            given = context.time_remaining()
            seconds = self._default_timeout if given is None else min(given, self._default_timeout)
            started = self._begin(context, seconds)
            try:
                async with asyncio.timeout(seconds):
                    response = await behaviour(request, context)
            except BaseException as error:
                await self._fail(error, context, started)
                raise
            self._log(started, "OK")
            return response

        return handle

    def streaming(
        self, behaviour: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            started = self._begin(context, context.time_remaining())
            try:
                async for response in behaviour(request, context):
                    yield response
            except BaseException as error:
                await self._fail(error, context, started)
                raise
            self._log(started, "OK")

        return handle

    def _begin(self, context: Context, seconds: float | None) -> float:
        identity = request_context.begin(self._offered_id, seconds)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=identity)
        # Trailing, since initial metadata would commit the call and end the client's retries.
        context.set_trailing_metadata(((request_context.REQUEST_ID_KEY, identity),))
        return time.perf_counter()

    async def _fail(self, error: BaseException, context: Context, started: float) -> None:
        identity = request_context.request_id()
        match error:
            case grpc.aio.AbortError():
                self._log(started, str(context.code()))
            case asyncio.CancelledError() | GeneratorExit():
                self._log(started, "CANCELLED")
            case TimeoutError():
                self._log(started, "DEADLINE_EXCEEDED")
                late = errors.DeadlineExceeded("the time given for this request was not enough")
                await context.abort_with_status(status.to_status(late, identity))
            case errors.ServiceError() if status.code_of(error) is not grpc.StatusCode.INTERNAL:
                self._log(started, status.code_of(error).name, error=error.message)
                await context.abort_with_status(status.to_status(error, identity))
            case Exception():
                log.exception("request failed", method=self._method)
                await context.abort_with_status(status.internal(identity))
            case _:
                pass

    def _log(self, started: float, code: str, **more: str) -> None:
        milliseconds = round((time.perf_counter() - started) * 1e3, 2)
        log.info("request", method=self._method, code=code, ms=milliseconds, **more)
