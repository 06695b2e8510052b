"""`models`: list, register, push."""

from pathlib import Path
from typing import Annotated

import typer

from diapason import errors
from diapason.cli.options import DEFAULT_DATA, AsJson, Data, connect
from diapason.cli.output import Failure, as_json, console, plain, remarks, table
from diapason.cli.training import follow_run, moment, print_run
from diapason.common.v1.version_pb2 import ModelKind, VersionRef
from diapason.trainer.v1.registry_pb2 import PUSH_STAGE_FETCHING, PUSH_STAGE_UPLOADING, PushVersionResponse
from diapason.trainer.v1.training_pb2 import RUN_STATE_SUCCEEDED

models_app = typer.Typer(no_args_is_help=False)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """List models and their versions, register a base model, push a version to a model hub.

    Example: diapason models
    """
    if context.invoked_subcommand:
        return
    with connect(data) as client:
        versions = [version for model in client.models() for version in client.versions(model.name)]
    if json:
        as_json([plain(version) for version in versions])
        return
    rows = [
        (
            v.ref.model,
            v.ref.number,
            _kind(v.kind),
            v.ref.digest[:12],
            moment(v.published_time),
            v.dimension or "",
            len(v.replicas),
            ", ".join(v.leases),
        )
        for v in versions
    ]
    table("Versions", ["model", ">version", "kind", "digest", "published", ">size", ">replicas", "kept for"], rows)


@models_app.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of the new model.")],
    source: Annotated[str, typer.Argument(help="A folder, a hub id or package:NAME.")],
    dimensions: Annotated[list[int] | None, typer.Option(help="Smaller sizes at which it may be used.")] = None,
    reranker: Annotated[bool, typer.Option("--reranker", help="It is a cross-encoder that scores pairs.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Import a base model as version 1 of a new lineage.

    Example: diapason models register mine ./my-sentence-transformer --dimensions 64
    """
    if (folder := Path(source)).is_dir():
        source = str(folder.resolve())
    with connect(data) as client:
        run = follow_run(client, client.register_model(name, source, dimensions or [], reranker))
    as_json(plain(run)) if json else print_run(run)
    if run.state != RUN_STATE_SUCCEEDED:
        raise Failure(f"{name!r} was not registered: {run.message}")


@models_app.command()
def push(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    number: Annotated[int, typer.Argument(help="Which version of it.", min=1)],
    repo: Annotated[str, typer.Argument(help="The hub's repository, as owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="Only into a private repository.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Push a version to a model hub, with a card. The trainer's HF_TOKEN is used, and its HF_ENDPOINT.

    Example: diapason models push minilm 2 acme/search-films --private
    """
    answer = PushVersionResponse()
    try:
        with connect(data) as client:
            for answer in client.push_version(VersionRef(model=name, number=number), repo, private):
                if answer.stage == PUSH_STAGE_FETCHING:
                    remarks.print("fetching the weights")
                elif answer.stage == PUSH_STAGE_UPLOADING:
                    remarks.print(f"uploading {answer.size_bytes / 1e6:,.1f} MB")
    except errors.Unavailable as error:
        if answer.stage != PUSH_STAGE_UPLOADING:
            raise
        # The trainer has answered; it is the hub that does not.
        raise Failure(str(error)) from error
    if json:
        as_json(plain(answer))
        return
    console.print(f"{name} version {number} is at {answer.url}, commit {answer.commit}", soft_wrap=True)


def _kind(kind: ModelKind.ValueType) -> str:
    return ModelKind.Name(kind).removeprefix("MODEL_KIND_").lower()
