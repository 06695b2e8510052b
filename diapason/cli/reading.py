"""Documents from JSON Lines and CSV files."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diapason.cli.output import Problem
from diapason.search.v1.document_pb2 import Document

_OWN = ("id", "text", "title", "payload")


def documents(path: Path) -> Iterator[Document]:
    """The documents of a file, by its ending. Raises ``Problem`` with the line, after those before it."""
    if not path.is_file():
        raise Problem(f"{path} is not a file")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            yield from _json_lines(path)
        case ".csv":
            yield from _csv(path)
        case other:
            raise Problem(f"{path} ends in {other or 'nothing'}; give a .jsonl or a .csv file")


def _json_lines(path: Path) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number)
            except json.JSONDecodeError as error:
                raise Problem(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
            except UnicodeDecodeError as error:
                raise Problem(f"{path}, line {number}: not UTF-8; convert the file") from error
            except (ValueError, RecursionError) as error:
                raise Problem(f"{path}, line {number}: {error}") from error
            if not isinstance(fields, dict):
                raise Problem(f"{path}, line {number}: a {type(fields).__name__}, not an object with id and text")
            yield _document(fields, f"{path}, line {number}")


def _csv(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8-sig", newline="") as content:
        rows = csv.DictReader(content, strict=True)
        try:
            missing = [name for name in ("id", "text") if name not in (rows.fieldnames or ())]
            if missing:
                raise Problem(
                    f"{path}, line 1: no column named {' or '.join(missing)}; the first line names the columns"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise Problem(f"{where}: not as many cells as the first line has columns")
                fields: dict[str, Any] = {name: row[name] for name in ("id", "text", "title") if name in row}
                fields["payload"] = {name: value for name, value in row.items() if name not in _OWN}
                if row.get("payload"):
                    fields["payload"] |= _payload(row["payload"], where)
                yield _document(fields, where)
        except csv.Error as error:
            raise Problem(f"{path}, line {rows.line_num}: not CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise Problem(f"{path}, after line {rows.line_num}: not UTF-8; convert the file") from error


def _payload(cell: str, where: str) -> dict[str, Any]:
    try:
        payload = json.loads(cell, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{where}: payload is not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise Problem(f"{where}: payload is not a JSON object")
    return payload


def _document(fields: dict[str, Any], where: str) -> Document:
    for name in ("id", "text", "title"):
        value = fields.get(name, "" if name == "title" else None)
        if not isinstance(value, str) or (name != "title" and not value.strip()):
            found = "missing" if value is None else "empty" if value == "" else f"{value!r}"
            raise Problem(f"{where}: {name} is {found}; give a text")
    payload = fields.get("payload", {})
    if not isinstance(payload, dict):
        raise Problem(f"{where}: payload is {payload!r}; give an object")
    try:
        document = Document(id=fields["id"], text=fields["text"], title=fields.get("title", ""))
        document.payload.update(payload)
    except (ValueError, OverflowError, RecursionError) as error:
        raise Problem(f"{where}: {error}") from error
    return document


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")
