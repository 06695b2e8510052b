"""What an evaluation found, as the file that two runs are compared by."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from diapason.evaluation.beir import Dataset
from diapason.evaluation.comparing import Difference, compare
from diapason.evaluation.measuring import Measurement
from diapason.evaluation.metrics import DECIDING, METRICS

FORMAT = 1


class RecordError(ValueError):
    """A file is no record of an evaluation, or two do not go together; the sentence says why."""


def record(
    data: Dataset, names: Sequence[str], found: Sequence[Measurement], others: Mapping[str, Any]
) -> dict[str, Any]:
    """An evaluation of the named queries; ``others`` is what the data does not tell, such as the route."""
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            "name": data.name,
            "split": data.split,
            "digest": data.digest,
            "documents": len(data.document_ids),
            "queries": len(data.queries),
            "judgments": sum(len(grades) for grades in data.judgments.values()),
        },
        "queries": len(names),
        **others,
        "texts": {name: data.queries[name] for name in names},
        "ways": [measured(measurement) for measurement in found],
    }


def measured(measurement: Measurement) -> dict[str, Any]:
    """One way of a record, with every query."""
    return {
        "mode": str(measurement.way.mode),
        "dimensions": measurement.way.dimensions,
        "metrics": {name: asdict(interval) for name, interval in measurement.metrics.items()},
        "seconds": round(measurement.seconds, 4),
        "queries_per_second": round(measurement.queries_per_second, 2),
        "queries": {
            name: {**found.metrics, "results": [list(result) for result in found.best]}
            for name, found in measurement.found.items()
        },
    }


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The record without what it has of each query."""
    ways = [{key: value for key, value in way.items() if key != "queries"} for way in record["ways"]]
    return {key: value for key, value in record.items() if key != "texts"} | {"ways": ways}


@dataclass(frozen=True)
class Record:
    """A record as read. ``content`` is what the command wrote."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises ``RecordError``."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RecordError(f"there is no {path}; write one with `diapason eval --output`") from error
        except (OSError, ValueError) as error:
            raise RecordError(
                f"{path} can't be read as JSON ({type(error).__name__}); give one from --output"
            ) from error
        if not _is_record(content):
            raise RecordError(f"{path} is no record of an evaluation; give what `diapason eval --output` wrote")
        return cls(path, content)

    def way(self, mode: str, dimensions: int = 0) -> dict[str, Any]:
        """What was found in a mode, at the greatest size unless one is given. Raises ``RecordError``."""
        found = [way for way in self.content["ways"] if way["mode"] == mode]
        if dimensions:
            found = [way for way in found if way["dimensions"] in (dimensions, 0)]
        if not found:
            has = ", ".join(named(way) for way in self.content["ways"])
            raise RecordError(f"{self.path} has no {named({'mode': mode, 'dimensions': dimensions})}; it has {has}")
        return max(found, key=lambda way: int(way["dimensions"]))

    @property
    def title(self) -> str:
        """The file and what served."""
        encoder = self.content["route"]["encoder"]
        return f"{self.path.name}: {encoder['model']} version {encoder['number']}"


@dataclass(frozen=True)
class Comparison:
    """Two ways over the queries that both have. ``gains`` is each query's difference in the deciding metric."""

    differences: dict[str, Difference]
    gains: dict[str, float]


def _is_record(content: Any) -> bool:
    """Whether all that is read of a record is there."""
    try:
        told = [content["data"][name] for name in ("name", "split", "digest")]
        encoder = content["route"]["encoder"]
        told += [encoder["model"], encoder["number"]]
        for way in content["ways"]:
            told += [way["mode"], int(way["dimensions"])]
            for name, found in way["queries"].items():
                told += [content["texts"][name], *(float(found[metric]) for metric in METRICS)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return bool(content.get("format") == FORMAT)


def check_same_data(first: Record, second: Record) -> None:
    """Raise ``RecordError`` unless both are about the same split of the same data."""
    a, b = first.content["data"], second.content["data"]
    if a["digest"] == b["digest"]:
        return
    names = [f"{data['name']}, split {data['split']}" for data in (a, b)]
    what = f"{names[0]}, with other files" if names[0] == names[1] else " and ".join(names)
    raise RecordError(
        f"{first.path} and {second.path} are of different data ({what}); "
        "compare runs on the same split of the same folder"
    )


def compare_ways(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """The second against the first. Raises ``RecordError`` if they share no query."""
    a, b = first["queries"], second["queries"]
    both = [name for name in a if name in b]
    if not both:
        raise RecordError("the two runs share no query; evaluate again with the same --limit-queries")
    differences = {metric: compare(_values(a, both, metric), _values(b, both, metric)) for metric in METRICS}
    return Comparison(differences, {name: b[name][DECIDING] - a[name][DECIDING] for name in both})


def _values(queries: dict[str, Any], names: Sequence[str], metric: str) -> list[float]:
    return [float(queries[name][metric]) for name in names]


def named(way: dict[str, Any]) -> str:
    """A way of a record, for people."""
    return f"{way['mode']} at {way['dimensions']}" if way["dimensions"] else str(way["mode"])
