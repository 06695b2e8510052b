"""What every service does around its own work, seen through a real server."""

import asyncio
import json
import logging
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2 as details
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import REGISTRY

from diapason import errors as client_errors
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.kit import errors, logs, metrics, tracing
from services.kit.context import REQUEST_ID_KEY, call_options, remaining
from services.kit.server import Host
from services.kit.settings import ServiceSettings, load

NAME = pb.DESCRIPTOR.services_by_name["EmbedderService"].full_name
Behaviour = Callable[[], Awaitable[None]]


class Scripted(rpc.EmbedderServiceServicer):
    """A servicer that does what the test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def GetInfo(self, request: pb.GetInfoRequest, context: object) -> pb.GetInfoResponse:
        await self._behaviour()
        return pb.GetInfoResponse(replica_id=str(remaining(100)))

    async def Embed(self, request: pb.EmbedRequest, context: object) -> pb.EmbedResponse:
        raise AssertionError("nobody asks for it")

    async def Rerank(self, request: pb.RerankRequest, context: object) -> pb.RerankResponse:
        raise AssertionError("nobody asks for it")

    async def Split(self, request: pb.SplitRequest, context: object) -> pb.SplitResponse:
        raise AssertionError("nobody asks for it")

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: object
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        await self._behaviour()
        async for request in request_iterator:
            yield pb.EmbedStreamResponse(dimensions=len(request.texts))


@asynccontextmanager
async def serving(behaviour: Behaviour, timeout: float = 30.0) -> AsyncIterator[tuple[Host, grpc.aio.Channel]]:
    host = Host(ServiceSettings(listen="127.0.0.1:0", request_timeout_seconds=timeout))
    host.serve(NAME, rpc.add_EmbedderServiceServicer_to_server, Scripted(behaviour))
    port = await host.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield host, channel
    await host.stop(5)


async def nothing() -> None:
    """Succeed."""


def raising(error: Exception) -> Behaviour:
    async def behave() -> None:
        raise error

    return behave


ERRORS = [
    (errors.InvalidArgument(errors.Violation("f", "is wrong")), "INVALID_ARGUMENT", details.BadRequest),
    (errors.NotFound("thing", "x", "look"), "NOT_FOUND", details.ResourceInfo),
    (errors.AlreadyExists("thing", "x", "look"), "ALREADY_EXISTS", details.ResourceInfo),
    (errors.FailedPrecondition("RULE", "x", "not now"), "FAILED_PRECONDITION", details.PreconditionFailure),
    (errors.Conflict("changed"), "ABORTED", details.ErrorInfo),
    (errors.Overloaded("full", 1.5), "RESOURCE_EXHAUSTED", details.RetryInfo),
    (errors.Unavailable("away", 1.5), "UNAVAILABLE", details.RetryInfo),
    (errors.DeadlineExceeded("late"), "DEADLINE_EXCEEDED", details.RequestInfo),
]


@pytest.mark.parametrize(("error", "code", "detail"), ERRORS, ids=[code for _, code, _ in ERRORS])
async def test_each_error_has_its_code_and_details(
    error: errors.ServiceError, code: str, detail: type[details.BadRequest]
) -> None:
    async with serving(raising(error)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest())
    assert caught.value.code().name == code
    assert caught.value.details() == error.message
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    assert any(packed.Is(detail.DESCRIPTOR) for packed in status.details)


@pytest.fixture
def restored_logs() -> Iterator[None]:
    """Logging as it was before the test configured it."""
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored_logs")
async def test_a_fault_of_ours_leaks_nothing_and_reaches_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("test", "INFO", "json")
    async with serving(raising(RuntimeError("secret detail"))) as (_, channel):
        metadata = ((REQUEST_ID_KEY, "request-42"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert "request-42" in (caught.value.details() or "")
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    [failure] = [line for line in logged if line["event"] == "request failed"]
    assert failure["request_id"] == "request-42"
    assert "secret detail" in failure["exception"]


async def test_the_client_gets_the_same_error_with_its_details() -> None:
    async with serving(raising(errors.Overloaded("full", 1.5))) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest())
    error = client_errors.from_rpc_error(caught.value)
    assert isinstance(error, client_errors.Overloaded)
    assert (error.message, error.retry_after) == ("full", 1.5)
    assert error.request_id


async def test_request_ids_are_kept_if_sane_and_made_if_not() -> None:
    async with serving(nothing) as (_, channel):
        for offered, kept in (("mine-1", True), ("has spaces", False), ("x" * 200, False)):
            call = rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest(), metadata=((REQUEST_ID_KEY, offered),))
            answered = dict(await call.trailing_metadata())[REQUEST_ID_KEY]
            assert (answered == offered) is kept
            assert answered
            await call


async def test_i10_a_request_without_a_deadline_gets_one() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async with serving(forever, timeout=0.2) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_what_a_caller_streams_takes_as_long_as_it_takes() -> None:
    """A large import goes on for minutes; a bound on requests is not for it."""

    async def count(requests: AsyncIterator[pb.GetInfoRequest], context: object) -> pb.GetInfoResponse:
        return pb.GetInfoResponse(replica_id=str(len([request async for request in requests])))

    def add(servicer: object, server: grpc.aio.Server) -> None:
        take_in = grpc.stream_unary_rpc_method_handler(
            count, pb.GetInfoRequest.FromString, pb.GetInfoResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Uploads", {"Upload": take_in}),))

    async def slowly() -> AsyncIterator[pb.GetInfoRequest]:
        for _ in range(3):
            await asyncio.sleep(0.1)
            yield pb.GetInfoRequest()

    host = Host(ServiceSettings(listen="127.0.0.1:0", request_timeout_seconds=0.1))
    host.serve("test.Uploads", add, object())
    port = await host.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        upload = channel.stream_unary(
            "/test.Uploads/Upload", pb.GetInfoRequest.SerializeToString, pb.GetInfoResponse.FromString
        )
        assert (await upload(slowly())).replica_id == "3"
    await host.stop(5)


async def test_calls_to_others_get_what_is_left_of_the_deadline() -> None:
    async with serving(nothing) as (_, channel):
        left = float((await rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=10)).replica_id)
    assert 5 < left < 11  # gRPC rounds the time it transmits


async def check(channel: grpc.aio.Channel, name: str) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))  # type: ignore[attr-defined]
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_health_is_not_serving_until_ready_and_liveness_is_from_the_start() -> None:
    async with serving(nothing) as (host, channel):
        assert [await check(channel, n) for n in ("", "readiness", NAME)] == ["NOT_SERVING"] * 3
        assert await check(channel, "liveness") == "SERVING"
        await host.set_ready(True)
        assert [await check(channel, n) for n in ("", "readiness", NAME)] == ["SERVING"] * 3
        with pytest.raises(grpc.aio.AioRpcError):
            await check(channel, "unknown")


async def test_stopping_lets_requests_in_flight_finish() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        await leave.wait()

    async with serving(wait) as (host, channel):
        call = asyncio.ensure_future(rpc.EmbedderServiceStub(channel).GetInfo(pb.GetInfoRequest()))
        await entered.wait()
        stopping = asyncio.create_task(host.stop(10))
        while await host_refuses(channel) is False:
            await asyncio.sleep(0.01)
        leave.set()
        assert (await call).replica_id
        assert await stopping


async def test_calls_are_counted_by_method_and_code() -> None:
    async def maybe() -> None:
        if outcomes.pop():
            raise errors.NotFound("version", "x", "look again")

    def counted(code: str) -> float:
        return REGISTRY.get_sample_value("diapason_requests_total", {"method": method, "code": code}) or 0.0

    outcomes, method = [True, False, False], f"/{NAME}/GetInfo"
    before = counted("OK"), counted("NOT_FOUND")
    async with serving(maybe) as (_, channel):
        stub = rpc.EmbedderServiceStub(channel)
        for _ in range(2):
            await stub.GetInfo(pb.GetInfoRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetInfo(pb.GetInfoRequest())
    assert (counted("OK") - before[0], counted("NOT_FOUND") - before[1]) == (2, 1)
    assert REGISTRY.get_sample_value("diapason_requests_in_flight", {"method": method}) == 0


async def test_metrics_are_served_for_prometheus() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    metrics.listen(f"127.0.0.1:{port}")
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        metrics.listen(f"127.0.0.1:{port}")

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return bytes(answer.read()).decode()

    assert "diapason_request_seconds" in await asyncio.to_thread(scrape)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", "127.0.0.1:web", ":9090", "127.0.0.1:70000"])
def test_an_address_for_metrics_that_is_none_is_said(address: str) -> None:
    with pytest.raises(OSError, match="host:port"):
        metrics.listen(address)


async def test_a_callers_trace_is_passed_on_to_the_next_service() -> None:
    caller, passed = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", list[str]()

    async def note() -> None:
        passed.extend(value for key, value in call_options(1)["metadata"] if key == "traceparent")

    async with serving(note) as (_, channel):
        stub = rpc.EmbedderServiceStub(channel)
        await stub.GetInfo(pb.GetInfoRequest(), metadata=(("traceparent", caller),))
        await stub.GetInfo(pb.GetInfoRequest(), metadata=(("traceparent", "nonsense"),))
    assert caller.split("-")[1] == passed[0].split("-")[1]
    assert not any(caller.split("-")[1] in each for each in passed[1:])


def test_spans_that_can_not_be_exported_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(tracing.NotInstalled, match=r"diapason\[tracing\]"):
        tracing.configure("embedder")


async def host_refuses(channel: grpc.aio.Channel) -> bool:
    """Whether a new request is turned away."""
    try:
        await check(channel, "liveness")
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_background_work_that_fails_stops_the_service() -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    host = Host(ServiceSettings(listen="127.0.0.1:0"))
    host.background("work", fail)
    await host.start("127.0.0.1:0")
    async with asyncio.timeout(5):
        await host.stopping.wait()
    assert not await host.stop(1)


async def test_a_taken_port_is_said_and_not_shared() -> None:
    host, second = Host(ServiceSettings(listen="")), Host(ServiceSettings(listen=""))
    port = await host.start("127.0.0.1:0")
    with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
        await second.start(f"127.0.0.1:{port}")
    await host.stop(0)


def test_settings_come_from_the_environment_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAPASON_LISTEN", "from-environment")
    monkeypatch.setenv("DIAPASON_LOG_LEVEL", "ERROR")
    settings = load(ServiceSettings, "x", ["--listen", "from-flag"])
    assert (settings.listen, settings.log_level) == ("from-flag", "ERROR")


def test_wrong_settings_end_with_a_sentence_and_status_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIAPASON_DRAIN_SECONDS", "soon")
    with pytest.raises(SystemExit) as ended:
        load(ServiceSettings, "x", [])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "DIAPASON_LISTEN" in said
    assert "DIAPASON_DRAIN_SECONDS" in said
    assert "'soon'" in said
