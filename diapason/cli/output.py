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
)
from rich.table import Column, Table
from rich.text import Text

# Results hold other people's texts, which are not markup.
console = Console(highlight=False, markup=False)
# Progress and remarks, so that standard output holds the result alone.
remarks = Console(stderr=True, highlight=False)


class Problem(Exception):
    """Something that the person at the keyboard can mend; said in one sentence, exit status 2."""


class Failure(Exception):
    """Something that went wrong without them; said in one sentence, exit status 1."""


def as_json(content: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def plain(message: Message) -> dict[str, Any]:
    """A contract message as JSON would have it, with the contract's field names."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns that begin with ">" are aligned right."""
    grid = Table(title=Text(title) if title else None, title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
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
    """A bar for work known by its share done, from 0 to 1, with a message."""
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(min_width=10)),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %", table_column=Column(min_width=5)),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TextColumn(
            "{task.fields[message]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
        console=remarks,
        expand=True,
    )
