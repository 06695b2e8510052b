"""Exported collections as lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapason.cli.collection import lines
from diapason.cli.output import Problem
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1.collection_pb2 import (
    FIELD_TYPE_INTEGER,
    CollectionSettings,
    ExportedDocument,
    ExportedPassage,
    ExportHeader,
)
from diapason.search.v1.document_pb2 import Document

HEADER = ExportHeader(
    collection="filme",
    settings=CollectionSettings(dimensions=[16], fields={"year": FIELD_TYPE_INTEGER}),
    encoder=VersionRef(model="tiny", number=3, digest="a" * 64),
    dimensions=32,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
payloads = st.dictionaries(texts, st.none() | st.booleans() | texts | st.integers(-1000, 1000) | st.lists(texts))
passages = st.builds(
    ExportedPassage, vector=st.binary(max_size=64), start=st.integers(0, 2**32 - 1), end=st.integers(0, 2**32 - 1)
)


def written(folder: Path, *rest: str, header: bytes | None = None) -> Path:
    path = folder / "export.jsonl"
    content = lines.header_line(HEADER, len(rest)) if header is None else header
    path.write_bytes(content + "".join(f"{line}\n" for line in rest).encode())
    return path


@given(texts, texts, texts, payloads, st.integers(0, 2**62), st.lists(passages, max_size=3))
def test_any_document_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    text: str,
    title: str,
    payload: dict[str, Any],
    revision: int,
    vectors: list[ExportedPassage],
) -> None:
    document = Document(id=name, text=text, title=title, revision=revision)
    document.payload.update(payload)
    document.payload.SetInParent()
    exported = ExportedDocument(document=document, passages=vectors)
    line = lines.document_line(exported)
    assert line.count(b"\n") == 1
    path = tmp_path_factory.getbasetemp() / "one.jsonl"
    path.write_bytes(lines.header_line(HEADER, 1) + line)
    assert list(lines.read_documents(path, 1)) == [exported]


def test_the_header_comes_back_and_is_as_long_for_every_count(tmp_path: Path) -> None:
    assert lines.read_header(written(tmp_path, header=lines.header_line(HEADER, 1234))) == (HEADER, 1234)
    assert len(lines.header_line(HEADER, 0)) == len(lines.header_line(HEADER, 10**11))


FIRST = json.loads(lines.header_line(HEADER, 1))


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("", "line 1: not JSON"),
        ("{", "line 1: not JSON"),
        ("7", "line 1: not a JSON object"),
        ('{"id": "a", "text": "b"}', "line 1: no header of an export; `diapason index` reads"),
        (json.dumps({**FIRST, "diapason_export": 2}), "line 1: written by another release"),
        (json.dumps({**FIRST, "documents": "x"}), "line 1: documents is 'x'; give the number of lines"),
        (json.dumps({**FIRST, "setings": {}}), "line 1: "),
    ],
)
def test_what_is_no_header_is_said(tmp_path: Path, first: str, said: str) -> None:
    with pytest.raises(Problem, match=re.escape(said)):
        lines.read_header(written(tmp_path, header=f"{first}\n".encode()))
    with pytest.raises(Problem, match="is not a file"):
        lines.read_header(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "line 3: not JSON"),
        ("[]", "line 3: not a JSON object"),
        ('{"id": 7}', "line 3: "),
        ('{"id": "a", "passages": 7}', "line 3: "),
        ('{"id": "a", "passages": [7]}', "line 3: "),
        ('{"id": "a", "passages": [{"vector": "-"}]}', "line 3: "),
        ('{"id": "a", "passages": [{"start": -1}]}', "line 3: "),
        ('{"id": "a", "payload": 7}', "line 3: "),
        ('{"id": "a", "payload": {"n": 1e999}}', "line 3: "),
        ('{"id": "\\ud800"}', "line 3: "),
        ("[" * 100_000, "line 3: "),
        ("", "has 1 documents where its first line says 2; copy it again"),
    ],
)
def test_a_broken_line_is_named_by_number(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, '{"id": "a", "text": "b"}', line)
    with pytest.raises(Problem, match=re.escape(said)):
        list(lines.read_documents(path, 2))
