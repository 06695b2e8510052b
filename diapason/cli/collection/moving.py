"""`diapason export` and `diapason import`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from diapason.cli.collection import lines
from diapason.cli.collection.command import Named, of
from diapason.cli.collection.settings import size
from diapason.cli.options import DEFAULT_DATA, AsJson, Data, connect
from diapason.cli.output import Failure, Problem, as_json, console, counting_bar, plain, remarks
from diapason.client import Client
from diapason.errors import InvalidArgument
from diapason.search.v1.collection_pb2 import ExportHeader, ImportCollectionRequest, ImportCollectionResponse


def export(
    name: Named,
    file: Annotated[Path, typer.Argument(help="A new .jsonl file.")],
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Write a collection with its vectors to a file, for `diapason import` elsewhere.

    Example: diapason export movies movies.jsonl
    """
    if file.exists():
        raise Problem(f"{file} is there already; move it away, or name another file")
    if not file.resolve().parent.is_dir():
        raise Problem(f"there is no folder {file.parent} to write {file.name} to; make it first")
    with connect(data) as client:
        total = client.collection(name).documents
        try:
            with _whole(file) as opened:
                header, documents = _write(client, name, opened, total)
        except OSError as error:
            raise Failure(f"{file} can't be written: {error.strerror}") from error
    if json:
        as_json({"collection": name, "file": str(file), "documents": documents, "encoder": plain(header.encoder)})
    else:
        console.print(
            f"{documents:,} documents of {name!r}, under {of(header.encoder)}, in {file} ({size(file.stat().st_size)})"
        )


def _write(client: Client, name: str, file: BinaryIO, total: int) -> tuple[ExportHeader, int]:
    documents = 0
    with counting_bar() as bar:
        task = bar.add_task("exporting", total=total)
        parts = client.export_collection(name)
        header = next(parts).header
        file.write(lines.header_line(header, 0))
        for part in parts:
            file.write(lines.document_line(part.document))
            documents += 1
            bar.update(task, advance=1)
    # How many they are is known now: documents are written and deleted meanwhile.
    file.seek(0)
    file.write(lines.header_line(header, documents))
    return header, documents


@contextmanager
def _whole(file: Path) -> Iterator[BinaryIO]:
    """A file that others see whole or not at all."""
    temporary = file.with_name(f"{file.name}.part")
    try:
        with temporary.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)


def import_(
    file: Annotated[Path, typer.Argument(help="What `diapason export` wrote.")],
    collection: Annotated[
        str, typer.Option("--collection", "-c", help="Name of the new collection; as exported if not given.")
    ] = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Make a new collection of an exported one; nothing is embedded again.

    If it can't be read to the end, no collection is left.

    Example: diapason import movies.jsonl --collection films
    """
    header, expected = lines.read_header(file)
    header.collection = collection or header.collection
    with connect(data) as client:
        done = _send(client, header, file, expected)
    if json:
        as_json(plain(done))
        return
    waiting = f"; {done.to_embed:,} came without vectors and are embedded now" if done.to_embed else ""
    made = done.collection
    console.print(f"{done.documents:,} documents in {made.name!r}, under {of(made.route.encoder)}{waiting}")


def _send(client: Client, header: ExportHeader, file: Path, expected: int) -> ImportCollectionResponse:
    wrong: list[Problem] = []

    def parts() -> Iterator[ImportCollectionRequest]:
        yield ImportCollectionRequest(header=header)
        sent = 0
        try:
            for document in lines.read_documents(file, expected):
                yield ImportCollectionRequest(document=document)
                sent += 1
                bar.update(task, advance=1)
            yield ImportCollectionRequest(sent=sent)
        except Problem as problem:
            wrong.append(problem)
        except OSError as error:
            wrong.append(Problem(f"{file} can't be read: {error.strerror}"))
        # grpcio prints the traceback of whoever raises here. What ends without a count is refused, and the server
        # deletes what it made before it says so.
        bar.update(task, description="storing")  # the network holds some thousands that the service has yet to take

    with counting_bar() as bar:
        task = bar.add_task("sending", total=expected)
        try:
            return client.import_collection(parts())
        except InvalidArgument:
            if wrong:
                raise wrong[0] from None
            raise
        except KeyboardInterrupt:
            remarks.print("Broken off: the service deletes what it had taken in.")
            raise
