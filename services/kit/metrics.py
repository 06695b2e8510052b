"""Prometheus metrics that every service has, and where they are served."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_MOST_PORT = 65_535

_REQUESTS = Counter("diapason_requests", "Calls that ended, by method and status code.", ["method", "code"])
_DURATION = Histogram(
    "diapason_request_seconds", "From the first byte of a call to its end.", ["method"], buckets=SECONDS
)
_IN_FLIGHT = Gauge("diapason_requests_in_flight", "Calls being served.", ["method"])


class MethodMetrics:
    """One method's metrics."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._duration = _DURATION.labels(method)
        self._in_flight = _IN_FLIGHT.labels(method)
        self._ok = _REQUESTS.labels(method, "OK")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Count a call as in flight for the block."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    def ended(self, code: str, seconds: float) -> None:
        """Count a call that has ended."""
        (self._ok if code == "OK" else _REQUESTS.labels(self._method, code)).inc()
        self._duration.observe(seconds)


def listen(address: str) -> None:
    """Serve all metrics of this process by HTTP at ``/metrics``. Raises ``OSError`` if the address can't be had."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not host or int(port) > _MOST_PORT:
        raise OSError(f"can't serve metrics on {address!r}; give host:port, as in 0.0.0.0:9090")
    try:
        start_http_server(int(port), host)
    except OSError as error:
        raise OSError(f"can't serve metrics on {address}; another program may have it") from error
