"""`diapason reindex` and `diapason rollback`."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from diapason.cli.collection.command import Named, of
from diapason.cli.collection.settings import duration, size
from diapason.cli.options import DEFAULT_DATA, AsJson, Data, connect, version
from diapason.cli.output import Failure, as_json, console, plain, remarks, share_bar
from diapason.client import Client
from diapason.errors import DiapasonError
from diapason.search.v1.collection_pb2 import (
    REINDEX_STATE_CANCELLED,
    REINDEX_STATE_RUNNING,
    REINDEX_STATE_SWITCHED,
    EstimateReindexResponse,
    Reindex,
)

_POLL_SECONDS = 0.25


def reindex(
    name: Named,
    model: Annotated[str, typer.Argument(metavar="MODEL[@N]", help="Encoder of the new index; its newest version.")],
    rate: Annotated[float, typer.Option(help="Documents per second at most; 0: as searches allow.", min=0)] = 0.0,
    switch: Annotated[bool, typer.Option("--switch", help="Let the new index serve once it is complete.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Build an index under another encoder, beside the one that serves.

    Searches go on. Ctrl-C cancels it, and nothing has changed.

    Example: diapason reindex movies minilm@2 --switch
    """
    wanted = version(model)
    with connect(data) as client:
        generation = client.collection(name).route.generation
        estimate = client.estimate_reindex(name, wanted)
        remarks.print(_estimated(name, model, estimate), markup=False)
        with _cancelled_by_ctrl_c(client, lambda: client.start_reindex(name, wanted, rate)) as start:
            built = _follow(client, start())
            route = client.switch_route(name, built.index, generation) if switch and not _serves(built) else None
    if json:
        as_json({"estimate": plain(estimate), "reindex": plain(built), "route": plain(route) if route else None})
    elif route or _serves(built):
        console.print(f"{name!r} is served by {of(built.encoder)}; `diapason rollback {name}` goes back")
    else:
        console.print(
            f"the new index of {name!r} under {of(built.encoder)} is complete and follows every write; "
            f"`diapason reindex {name} {model} --switch` lets it serve"
        )


def _serves(built: Reindex) -> bool:
    return built.state == REINDEX_STATE_SWITCHED


def _estimated(name: str, model: str, estimate: EstimateReindexResponse) -> str:
    free = f", {size(estimate.free_disk_bytes)} are free" if estimate.free_disk_bytes else ""
    time_needed = duration(estimate.duration.ToNanoseconds() / 1e9)
    return (
        f"{estimate.documents:,} documents of {name!r} under {model}: "
        f"about {time_needed}, {size(estimate.disk_bytes)} of disk{free}"
    )


def _follow(client: Client, begun: Reindex) -> Reindex:
    """Show the progress until the index is complete."""
    with share_bar() as bar:
        task = bar.add_task("reindexing", total=1.0, message="")
        while True:
            seen = client.reindex(begun.id)
            share = seen.done / seen.total if seen.total else 1.0
            bar.update(task, completed=share, message=_progress(seen))
            if seen.state == REINDEX_STATE_CANCELLED:
                raise Failure(f"the reindex of {seen.collection!r} was cancelled by somebody else; what served serves")
            if seen.state != REINDEX_STATE_RUNNING:
                bar.update(task, completed=1.0)
                return seen
            time.sleep(_POLL_SECONDS)


def _progress(seen: Reindex) -> str:
    rate = f", {seen.documents_per_second:,.0f}/s" if seen.documents_per_second else ""
    left = f", {duration(seen.time_left.ToNanoseconds() / 1e9)} left" if seen.HasField("time_left") else ""
    return seen.reason or f"{seen.done:,} of {seen.total:,}{rate}{left}"


@contextmanager
def _cancelled_by_ctrl_c(client: Client, start: Callable[[], Reindex]) -> Iterator[Callable[[], Reindex]]:
    """Cancel the reindex that ``start`` begins if the block is interrupted, by Ctrl-C or SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield start
    except KeyboardInterrupt:
        # To start it again gives the one that was begun, also if the interrupt came before its answer.
        _cancel(client, start())
        raise
    except DiapasonError:
        remarks.print("The reindex goes on by itself; the same command follows it again.")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _cancel(client: Client, begun: Reindex) -> None:
    """Deaf to signals for so long. Failing is said, not raised: it is an end already."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        state = client.cancel_reindex(begun.id).state
    except DiapasonError as error:
        remarks.print(f"The reindex could not be cancelled and goes on: {error.message}", markup=False)
    else:
        if state == REINDEX_STATE_CANCELLED:
            remarks.print("Cancelled: the new index is dropped, what served serves.")
        else:
            remarks.print(f"Too late to cancel; `diapason rollback {begun.collection}` goes back.", markup=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rollback(name: Named, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Let what served a collection before serve it again, while it is kept.

    Example: diapason rollback movies
    """
    with connect(data) as client:
        route = client.roll_back_route(name, client.collection(name).route.generation)
    if json:
        as_json(plain(route))
    else:
        reranker = f" and reranker {of(route.reranker)}" if route.reranker.digest else ""
        console.print(f"{name!r} is served by {of(route.encoder)}{reranker} again, generation {route.generation}")
