"""OpenTelemetry spans that join the caller's.

Only the API is needed; without an SDK, spans cost next to nothing and a caller's trace is passed on.
With `OTEL_EXPORTER_OTLP_ENDPOINT` set, spans are exported there (the `tracing` extra).
"""

import os
import time
from collections.abc import Iterable

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# What W3C Trace Context calls the key that every traced caller sends.
_PARENT = "traceparent"

tracer = trace.get_tracer("diapason")


class NotInstalled(Exception):
    """Spans are to be exported, and what exports them is not there."""


def configure(service: str) -> None:
    """Export spans where the environment says so. Raises ``NotInstalled``."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise NotInstalled(f"{_ENDPOINTS[0]} is set; install diapason[tracing], or unset it") from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"diapason-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def begin(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
    """Start the span of a call being served, below the caller's, as the current one of this task."""
    carrier = {key: str(value) for key, value in metadata if key in (_PARENT, "tracestate")}
    parent = propagate.extract(carrier) if _PARENT in carrier else context.Context()
    span = tracer.start_span(method.lstrip("/"), parent, SpanKind.SERVER)
    if span.is_recording():
        service, _, name = method.lstrip("/").partition("/")
        span.set_attributes({"rpc.system": "grpc", "rpc.service": service, "rpc.method": name})
    # Each call has a task and so a context of its own, which ends with it: nothing to detach.
    context.attach(trace.set_span_in_context(span, parent))
    return span


def end(span: Span, code: str) -> None:
    """End it with the status code of the call."""
    if span.is_recording():
        span.set_attribute("rpc.response.status_code", code)
        if code != "OK":
            span.set_status(Status(StatusCode.ERROR, code))
    span.end()


def stage(name: str, seconds: float, ago: float = 0.0, **attributes: str | int) -> None:
    """A span within the current one for work that took ``seconds`` and ended ``ago`` seconds ago."""
    if trace.get_current_span().is_recording():
        ended = time.time_ns() - int(ago * 1e9)
        span = tracer.start_span(name, start_time=ended - int(seconds * 1e9), attributes=attributes)
        span.end(ended)


def outgoing() -> tuple[tuple[str, str], ...]:
    """Metadata that lets a call to another service join the current trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())
