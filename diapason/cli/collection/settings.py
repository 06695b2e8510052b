"""The settings of a collection: as options say them, and as people read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from diapason.cli.filters import word
from diapason.cli.output import Problem
from diapason.search.v1 import collection_pb2
from diapason.search.v1.collection_pb2 import Bm25, CollectionSettings, FieldType, Passages

_TYPES = {word(kind): kind for kind in FieldType.values() if kind}

Fields = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="NAME:TYPE", help=f"A payload field for filters: {', '.join(_TYPES)}. Repeatable."),
]


class Distance(StrEnum):
    """How near two vectors are."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"


class Quantization(StrEnum):
    """How vectors are compressed in memory."""

    NONE = "none"
    INT8 = "int8"
    BINARY = "binary"
    TURBO = "turbo"


@dataclass(frozen=True)
class Wanted:
    """What the options say of a new collection; None and empty where they say nothing."""

    dimensions: Sequence[int]
    bm25: bool | None
    language: str
    distance: Distance | None
    quantization: Quantization | None
    passages: int | None
    overlap: int | None
    fields: Sequence[str]

    def settings(self) -> CollectionSettings:
        """The settings of a new collection. Raises ``Problem``."""
        if self.bm25 is False and self.language:
            raise Problem("--language is BM25's; leave --no-bm25 out")
        made = CollectionSettings(dimensions=self.dimensions, fields=declared(self.fields))
        if self.bm25 is not False:
            made.bm25.CopyFrom(Bm25(language=self.language))
        if self.distance:
            made.distance = collection_pb2.Distance.Value(f"DISTANCE_{self.distance.name}")
        if self.quantization:
            made.quantization = collection_pb2.Quantization.Value(f"QUANTIZATION_{self.quantization.name}")
        if self.passages is not None:
            made.passages.CopyFrom(Passages(max_tokens=self.passages, overlap_tokens=self.overlap or 0))
        elif self.overlap is not None:
            raise Problem("--overlap is between passages; give --passages too")
        return made

    def check(self, name: str, has: CollectionSettings) -> None:
        """Raise ``Problem`` if the options ask for something else than a collection that exists has."""
        wanted = self.settings()
        differ = {
            "--dimensions": self.dimensions and sorted(self.dimensions) != sorted(has.dimensions),
            "--bm25": self.bm25 is not None and self.bm25 != has.HasField("bm25"),
            "--language": self.language and self.language != has.bm25.language,
            "--distance": self.distance and wanted.distance != has.distance,
            "--quantization": self.quantization and wanted.quantization != has.quantization,
            "--passages": self.passages is not None and wanted.passages != has.passages,
            "--field": any(has.fields.get(field) != kind for field, kind in wanted.fields.items()),
        }
        if wrong := [option for option, differs in differ.items() if differs]:
            remedy = "`diapason collections update` declares fields" if wrong == ["--field"] else "leave it out"
            raise Problem(
                f"collection {name!r} exists with other settings than {', '.join(wrong)}; "
                f"{remedy}, or choose another --collection"
            )


def declared(given: Sequence[str]) -> dict[str, FieldType.ValueType]:
    """Fields from NAME:TYPE. Raises ``Problem``."""
    found = {}
    for one in given:
        name, _, kind = one.partition(":")
        if not name or kind not in _TYPES:
            raise Problem(f"--field {one!r}: give NAME:TYPE, the type one of {', '.join(_TYPES)}")
        found[name] = _TYPES[kind]
    return found


def described(settings: CollectionSettings) -> list[tuple[str, str]]:
    """What each setting is."""
    words, split = settings.bm25, settings.passages
    passages = f"of {split.max_tokens or 'as many tokens as the encoder reads'}"
    passages += " tokens" if split.max_tokens else ""
    passages += f", {split.overlap_tokens} shared" if split.overlap_tokens else ""
    return [
        ("smaller sizes", ", ".join(map(str, settings.dimensions)) or "none"),
        ("distance", _word(collection_pb2.Distance.Name(settings.distance))),
        ("quantization", _word(collection_pb2.Quantization.Name(settings.quantization))),
        ("words (BM25)", words.language if settings.HasField("bm25") else "no"),
        ("passages", passages if settings.HasField("passages") else "no"),
        ("fields", fields(settings.fields) or "none"),
        ("kept for rollback", duration(settings.retention.ToNanoseconds() / 1e9)),
    ]


def fields(given: Mapping[str, FieldType.ValueType]) -> str:
    """Declared fields as NAME:TYPE."""
    return ", ".join(f"{name}:{word(kind)}" for name, kind in sorted(given.items()))


def duration(seconds: float) -> str:
    """A time span in its two greatest units."""
    whole = round(seconds)
    if whole < 60:
        return "under 1 s" if 0 < seconds < 1 else f"{whole} s"
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number)


def size(count: float) -> str:
    """So many bytes."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _word(name: str) -> str:
    return name.partition("_")[2].lower()
