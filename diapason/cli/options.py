"""Options that several commands share, and finding the stack they are meant for."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from diapason.client import Addresses, Client

STACK_FILE = "stack.json"

Data = Annotated[Path, typer.Option(envvar="DIAPASON_DATA", help="Folder of the embedded stack.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Collection = Annotated[str, typer.Option("--collection", "-c", help="Which collection.")]
DEFAULT_DATA = Path(".diapason")
DEFAULT_COLLECTION = "documents"


def addresses(data: Path) -> Addresses:
    """Where the services are: by `DIAPASON_<SERVICE>_ADDRESS`, else the running stack of the data folder."""
    stack = data / STACK_FILE
    known: dict[str, str] = json.loads(stack.read_text())["addresses"] if stack.exists() else {}
    for field in fields(Addresses):
        if given := os.environ.get(f"DIAPASON_{field.name.upper()}_ADDRESS"):
            known[field.name] = given
    return Addresses(**known)


def connect(data: Path) -> Client:
    """A client of that stack."""
    return Client(addresses(data))
