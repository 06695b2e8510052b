"""Data that users bring: checked as it comes, kept in the object store, its row in SQL written last.

Methods block: call them from a thread.
"""

import gzip
import hashlib
import tempfile
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import sqlalchemy as sa
import structlog
from google.protobuf.json_format import MessageToJson, Parse
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from diapason.datasets.checking import BadData, Checker, Summary
from diapason.trainer.v1 import dataset_pb2 as pb
from services.kit.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NotFound,
    Overloaded,
    ServiceError,
    Unavailable,
    Violation,
)
from services.kit.sql import Database
from services.trainer import room
from services.trainer.tables import DatasetRow, now

log = structlog.get_logger()

# Of the bad rows so many are named: a status travels in headers. The last place is for how many there are.
_NAMED = 15


class Upload:
    """Rows on their way into the store: each is checked and goes to a file without a name, gone if we are."""

    def __init__(self, form: pb.DatasetForm.ValueType, folder: Path, most_rows: int, most_bytes: int) -> None:
        self._checker = Checker(form)
        self._most_rows, self._most_bytes = most_rows, most_bytes
        self.taken = self._bytes = 0
        self._sha = hashlib.sha256()
        with _room(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._lines = gzip.GzipFile(fileobj=self.file, mode="wb", mtime=0)
        self._folder = folder

    def take(self, rows: Sequence[pb.DatasetRow]) -> None:
        """Check rows and keep the good ones. Raises ``Overloaded`` beyond the bounds, or where there is no room."""
        with _room(str(self._folder)):
            for row in rows:
                if self.taken >= self._most_rows:
                    raise Overloaded(f"a dataset may have {self._most_rows:,} rows; upload fewer", retry_after=3600)
                self._bytes += row.ByteSize()
                if self._bytes > self._most_bytes:
                    raise Overloaded(f"a dataset may have {self._most_bytes:,} bytes; upload less", retry_after=3600)
                if self._checker.add(f"rows[{self.taken}]", row):
                    line = MessageToJson(row, preserving_proto_field_name=True, indent=None, ensure_ascii=False) + "\n"
                    self._sha.update(line.encode())
                    self._lines.write(line.encode())
                self.taken += 1

    def finish(self) -> tuple[Summary, str]:
        """What there is, and its digest; the file stands at its beginning. Raises ``InvalidArgument``."""
        try:
            summary = self._checker.finish()
        except BadData as error:
            raise _refused(error) from error
        with _room(str(self._folder)):
            self._lines.close()
            self.file.flush()
            self.file.seek(0)
        return summary, self._sha.hexdigest()

    def close(self) -> None:
        """Let go of the file, however it went."""
        # What is still to be written may find no room, or no file any more: nobody will read it.
        with suppress(OSError, ValueError):
            self._lines.close()
        with suppress(OSError):
            self.file.close()


class Datasets:
    """What was brought."""

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database, self._objects = database, objects

    def check_free(self, name: str, replace: bool) -> None:
        """Raises ``AlreadyExists``, so that nobody sends rows for nothing."""
        if not replace and self._find(name) is not None:
            raise _taken(name)

    def store(self, header: pb.DatasetHeader, upload: Upload) -> DatasetRow:
        """Keep an upload. Raises ``InvalidArgument``, ``AlreadyExists``, ``Overloaded`` where there is no room."""
        summary, digest = upload.finish()
        # Each upload has an object of its own: nothing that a row names is ever written again.
        path = f"datasets/{header.name}/{digest[:16]}-{uuid.uuid4().hex}.jsonl.gz"
        try:
            with _room("the object store"):
                self._objects.put(path, upload.file)
            row, before = self._write(header, summary, digest, path)
        except BaseException:
            self._discard(path)
            raise
        if before:
            self._discard(before)
        return row

    def get(self, name: str) -> DatasetRow:
        """One of them. Raises ``NotFound``."""
        row = self._find(name)
        if row is None:
            raise NotFound("dataset", name, "`diapason datasets` lists what there is")
        return row

    def every(self) -> list[DatasetRow]:
        """All, by name."""
        with self._database.reading() as session:
            return list(session.scalars(sa.select(DatasetRow).order_by(DatasetRow.name)))

    def delete(self, name: str) -> None:
        """Forget one. Raises ``NotFound``."""
        path = self.get(name).path
        with self._database.writing() as session:
            session.execute(sa.delete(DatasetRow).where(DatasetRow.name == name, DatasetRow.path == path))
        self._discard(path)

    def _find(self, name: str) -> DatasetRow | None:
        with self._database.reading() as session:
            return session.get(DatasetRow, name)

    def _write(self, header: pb.DatasetHeader, summary: Summary, digest: str, path: str) -> tuple[DatasetRow, str]:
        """The row, and the path of what it took the place of."""
        fresh = DatasetRow(
            name=header.name,
            form=pb.DatasetForm.Name(header.form),
            path=path,
            digest=digest,
            rows=summary.rows,
            queries=summary.queries,
            rankable_queries=summary.rankable_queries,
            classes=summary.classes,
            documents=summary.documents,
            remarks=summary.remarks,
            created_at=now(),
        )
        try:
            with self._database.writing() as session:
                known = session.get(DatasetRow, header.name, with_for_update=True)
                if known is not None and not header.replace:
                    raise _taken(header.name)
                before = known.path if known else ""
                session.merge(fresh)
        except sa.exc.IntegrityError as error:
            raise Conflict(
                f"dataset {header.name!r} was uploaded by somebody else at this moment; try again"
            ) from error
        return fresh, before

    def _discard(self, path: str) -> None:
        """An object that nothing names; if it can't go now it is only in the way."""
        try:
            self._objects.delete(path)
        except (BaseError, OSError) as error:
            log.warning("an object is left behind", path=path, reason=str(error))


def read_rows(objects: ObjectStore, path: str) -> Iterator[pb.DatasetRow]:
    """The rows under a path. Raises ``FileNotFoundError`` if they were deleted or replaced."""
    inflate, rest = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
    for chunk in objects.get(path).stream():
        *lines, rest = (rest + inflate.decompress(bytes(chunk))).split(b"\n")
        for line in lines:
            yield Parse(line, pb.DatasetRow())
    if rest or not inflate.eof:
        raise ServiceError(f"{path} in the object store ends before its time; upload the dataset again")


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists("dataset", name, "choose another name, or say that it is to be replaced")


def _refused(error: BadData) -> InvalidArgument:
    if not error.problems:
        return InvalidArgument(Violation("rows", str(error)))
    named = [
        Violation(f"{problem.place}.{problem.field}".rstrip("."), problem.said) for problem in error.problems[:_NAMED]
    ]
    more = error.total - len(named)
    return InvalidArgument(*named, *([Violation("rows", f"{more} more of them are wrong")] if more else []))


@contextmanager
def _room(where: str) -> Iterator[None]:
    """Say it plainly where a disk is full, or a store does not answer."""
    full = f"there is no room left in {where}; nothing of the dataset was kept: make room, then upload it again"
    try:
        yield
    except (OSError, BaseError) as error:
        if room.is_missing(error):
            raise Overloaded(full, retry_after=60) from error
        if isinstance(error, OSError):
            raise
        raise Unavailable(f"the object store does not take the dataset: {str(error)[:200]}") from error
