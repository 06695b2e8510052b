"""Data that users bring."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from diapason.datasets.checking import FORMS, name_of
from diapason.trainer.v1 import dataset_pb2 as pb
from diapason.trainer.v1 import dataset_pb2_grpc
from services.kit.admission import Admission
from services.kit.errors import DeadlineExceeded, InvalidArgument, Violation
from services.trainer import wire
from services.trainer.datasets import Datasets, Upload
from services.trainer.servicers.common import Context
from services.trainer.tables import DatasetRow

P = ParamSpec("P")
T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# Each may fill a file of its own on the way.
_UPLOADS = 4
# So long an upload may be silent.
_IDLE_SECONDS = 60.0


class DatasetServicer(dataset_pb2_grpc.DatasetServiceServicer):
    """Data that users bring. ``folder`` is where uploads wait until they are whole."""

    def __init__(self, datasets: Datasets, folder: Path, most_rows: int, most_bytes: int) -> None:
        self._datasets, self._folder = datasets, folder
        self._most_rows, self._most_bytes = most_rows, most_bytes
        self._admission = Admission(_UPLOADS)

    async def UploadDataset(
        self, request_iterator: AsyncIterator[pb.UploadDatasetRequest], context: Context
    ) -> pb.UploadDatasetResponse:
        """Take all rows, then keep them; whoever breaks off leaves nothing."""
        with self._admission.admitted():
            requests = aiter(request_iterator)
            header = _checked(await _following(requests))
            await asyncio.to_thread(self._datasets.check_free, header.name, header.replace)
            # Not in a thread: a caller who goes meanwhile would leave its file open.
            upload = Upload(header.form, self._folder, self._most_rows, self._most_bytes)
            try:
                while (request := await _following(requests)) and request.WhichOneof("part") != "sent":
                    if request.WhichOneof("part") != "rows":
                        raise InvalidArgument(Violation("rows", "is missing; the header comes once, then rows only"))
                    await _to_its_end(upload.take, request.rows.rows)
                _check_whole(request, upload.taken)
                if request and await _following(requests):
                    raise InvalidArgument(Violation("sent", "was not last; it says that all rows have come"))
                row = await _to_its_end(self._datasets.store, header, upload)
            finally:
                upload.close()
        return pb.UploadDatasetResponse(dataset=to_pb(row))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        """All of them."""
        rows = await asyncio.to_thread(self._datasets.every)
        return pb.ListDatasetsResponse(datasets=[to_pb(row) for row in rows])

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        """One."""
        return pb.GetDatasetResponse(dataset=to_pb(await asyncio.to_thread(self._datasets.get, request.name)))

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        """Forget one."""
        await asyncio.to_thread(self._datasets.delete, request.name)
        return pb.DeleteDatasetResponse()


async def _to_its_end(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What a thread makes of it, which is waited for though the caller has gone: it is at the upload's file."""
    running = asyncio.create_task(asyncio.to_thread(work, *given, **named))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def _following(requests: AsyncIterator[pb.UploadDatasetRequest]) -> pb.UploadDatasetRequest | None:
    """The next message, or None at the end. Raises ``DeadlineExceeded`` if none comes: others wait for the place."""
    try:
        async with asyncio.timeout(_IDLE_SECONDS):
            return await anext(requests, None)
    except TimeoutError as error:
        raise DeadlineExceeded(f"nothing came for {_IDLE_SECONDS:.0f} seconds; upload the dataset again") from error


def _check_whole(last: pb.UploadDatasetRequest | None, taken: int) -> None:
    if last is None:
        raise InvalidArgument(Violation("sent", "is missing; how many rows were sent comes last, when all were"))
    if last.sent != taken:
        raise InvalidArgument(Violation("sent", f"is {last.sent}, but {taken} rows came; upload the dataset again"))


def to_pb(row: DatasetRow) -> pb.Dataset:
    """A dataset in the contract's form."""
    return pb.Dataset(
        name=row.name,
        form=pb.DatasetForm.Value(row.form),
        rows=row.rows,
        queries=row.queries,
        rankable_queries=row.rankable_queries,
        classes=row.classes,
        documents=row.documents,
        digest=row.digest,
        created_time=wire.moment(row.created_at),
        remarks=row.remarks,
    )


def _checked(first: pb.UploadDatasetRequest | None) -> pb.DatasetHeader:
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument(Violation("header", "is missing; it comes first, with name and form"))
    header, wrong = first.header, []
    if not _NAME.fullmatch(header.name):
        rule = "use 1 to 63 lower-case letters, digits, '-' and '_', a letter or digit first"
        wrong.append(Violation("header.name", f"is {header.name[:100]!r}; {rule}"))
    if header.form not in FORMS:
        wrong.append(Violation("header.form", f"is {header.form}; give one of {', '.join(map(name_of, FORMS))}"))
    if wrong:
        raise InvalidArgument(*wrong)
    return header
