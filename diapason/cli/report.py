"""`report`."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from diapason.cli.options import DEFAULT_DATA, AsJson, Data, connect
from diapason.cli.output import Problem, console, remarks
from diapason.cli.training import MANY, whole
from diapason.client import Client
from diapason.trainer.v1.training_pb2 import (
    RUN_KIND_FINE_TUNE,
    RUN_STATE_CANCELLED,
    RUN_STATE_FAILED,
    RUN_STATE_SUCCEEDED,
)

_ENDED = (RUN_STATE_SUCCEEDED, RUN_STATE_FAILED, RUN_STATE_CANCELLED)


def report(
    run_id: Annotated[
        str, typer.Argument(help="The run, by the first letters of its id; the newest if left out.")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="File to write.", show_default="RUN.html here")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Write what a training run learned and what came of it, as one page with plots.

    Example: diapason report --open
    """
    if json and (output or open_):
        raise Problem("--json prints the report for programs; leave --output and --open out")
    with connect(data) as client:
        run_id = whole(client, run_id) if run_id else _newest(client)
        made = client.report(run_id, json)
    if json:
        sys.stdout.write(made.content.decode() + "\n")
        return
    path = output or Path(f"{run_id}.html")
    try:
        path.write_bytes(made.content)
    except OSError as error:
        raise Problem(f"{path} can't be written ({error.strerror}); choose another file with --output") from error
    console.print(path, soft_wrap=True)
    console.print(made.sentence, soft_wrap=True)
    if open_ and not webbrowser.open(path.resolve().as_uri()):
        remarks.print("no browser could be opened")


def _newest(client: Client) -> str:
    """The id of the training run that ended and began last."""
    for run in client.runs(MANY):
        if run.kind == RUN_KIND_FINE_TUNE and run.state in _ENDED:
            return run.id
    raise Problem("no training run has ended yet; `diapason train` makes one")
