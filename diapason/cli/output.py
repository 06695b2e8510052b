"""What people and programs get to see."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(highlight=False)
# Progress and remarks, so that standard output holds the result alone.
remarks = Console(stderr=True, highlight=False)


class Problem(Exception):
    """Something that the person at the keyboard can mend; said in one sentence, exit status 2."""


class Failure(Exception):
    """Something that went wrong without them; said in one sentence, exit status 1."""


def as_json(content: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def plain(message: Message) -> dict[str, Any]:
    """A contract message as JSON would have it, with the contract's field names."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns that begin with ">" are aligned right."""
    grid = Table(title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    console.print(grid)


def counting_bar() -> Progress:
    """A bar for work whose steps are counted."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=remarks,
    )


def share_bar() -> Progress:
    """A bar for work known by its share done, from 0 to 1."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}"),
        console=remarks,
    )
