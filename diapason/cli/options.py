"""Options that several commands share, and finding the stack they are meant for."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from diapason.cli.output import Problem
from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef

STACK_FILE = "stack.json"

Data = Annotated[Path, typer.Option(envvar="DIAPASON_DATA", help="Folder of the embedded stack.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Which collection.")]
DEFAULT_DATA = Path(".diapason")
DEFAULT_COLLECTION = "documents"


def addresses(data: Path) -> Addresses:
    """Where the services are: by `DIAPASON_<SERVICE>_ADDRESS`, else the running stack of the data folder."""
    stack = data / STACK_FILE
    known: dict[str, str] = read_json(stack)["addresses"] if stack.exists() else {}
    for field in fields(Addresses):
        if given := os.environ.get(f"DIAPASON_{field.name.upper()}_ADDRESS"):
            known[field.name] = given
    return Addresses(**known)


def connect(data: Path) -> Client:
    """A client of that stack."""
    return Client(addresses(data))


def version(named: str) -> VersionRef:
    """What MODEL or MODEL@NUMBER means; a model alone, its newest version. Raises ``Problem``."""
    model, at, number = named.partition("@")
    if not model or (at and not (number.isdecimal() and int(number))):
        raise Problem(f"{named!r} names no version; give MODEL or MODEL@NUMBER, for example minilm@1")
    return VersionRef(model=model, number=int(number or 0))


def read_json(file: Path) -> dict[str, Any]:
    """A file of the data folder. Raises ``Problem`` if it holds something else."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Problem(f"{file} can't be read ({type(error).__name__}); delete it") from error
    if not isinstance(content, dict):
        raise Problem(f"{file} does not hold what it should; delete it")
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a file of the data folder, which others see whole or not at all."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.rename(file)
