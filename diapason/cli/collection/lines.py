"""An exported collection as JSON lines: a header, then a line for each document (docs/moving.md)."""

import base64
import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from diapason.cli.output import Problem
from diapason.search.v1.collection_pb2 import ExportedDocument, ExportHeader

FORMAT = 1
_HEADER = "diapason_export"
# The count of documents is known at the end; so many digits are kept free for it.
_COUNT_DIGITS = 12


def header_line(header: ExportHeader, documents: int) -> bytes:
    """The first line. It is of the same length for every count of documents."""
    content = {_HEADER: FORMAT, "documents": documents, **MessageToDict(header, preserving_proto_field_name=True)}
    padding = " " * (_COUNT_DIGITS - len(str(documents)))
    return (json.dumps(content, ensure_ascii=False) + padding + "\n").encode()


def document_line(exported: ExportedDocument) -> bytes:
    """The line of a document: the fields that `diapason index` reads, its revision, its passages' vectors."""
    document = exported.document
    content = {
        "id": document.id,
        "text": document.text,
        "title": document.title,
        "payload": MessageToDict(document.payload),
        "revision": document.revision,
        "passages": [
            {"start": passage.start, "end": passage.end, "vector": base64.b64encode(passage.vector).decode()}
            for passage in exported.passages
        ],
    }
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


def read_header(path: Path) -> tuple[ExportHeader, int]:
    """The header, and how many documents follow. Raises ``Problem``."""
    if not path.is_file():
        raise Problem(f"{path} is not a file")
    with path.open("rb") as file:
        content = _object(file.readline(), f"{path}, line 1")
    if _HEADER not in content:
        raise Problem(f"{path}, line 1: no header of an export; `diapason index` reads files of documents alone")
    if content.pop(_HEADER) != FORMAT:
        raise Problem(f"{path}, line 1: written by another release, which `diapason import` does not read")
    documents = content.pop("documents", None)
    if not isinstance(documents, int) or documents < 0:
        raise Problem(f"{path}, line 1: documents is {documents!r}; give the number of lines that follow")
    try:
        return ParseDict(content, ExportHeader()), documents
    except ParseError as error:
        raise Problem(f"{path}, line 1: {error}") from error


def read_documents(path: Path, expected: int) -> Iterator[ExportedDocument]:
    """The documents after the header. Raises ``Problem`` with the line."""
    count = 0
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            yield _document(_object(line, where), where)
            count += 1
    if count != expected:
        raise Problem(f"{path} has {count:,} documents where its first line says {expected:,}; copy it again")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line, parse_float=_number, parse_constant=_number)
    except UnicodeDecodeError as error:
        raise Problem(f"{where}: not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Problem(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise Problem(f"{where}: {error}") from error
    if not isinstance(content, dict):
        raise Problem(f"{where}: not a JSON object")
    return content


def _number(written: str) -> float:
    if not isfinite(number := float(written)):
        raise ValueError(f"{written} is not a number that can be stored")
    return number


def _document(content: dict[str, Any], where: str) -> ExportedDocument:
    passages = content.pop("passages", [])
    try:
        # The contract's own JSON form: bytes are base64 there too.
        return ParseDict({"document": content, "passages": passages}, ExportedDocument())
    except (ParseError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        raise Problem(f"{where}: {error}") from error
