"""The client's calls of the trainer about data that users bring."""

from collections.abc import Iterable, Iterator, Sequence

from diapason.clients.calls import errors
from diapason.trainer.v1 import dataset_pb2, dataset_pb2_grpc

# Of one message; the most that the service takes is well above.
_ROWS, _BYTES = 1_000, 1024 * 1024


class DatasetCalls:
    """What `diapason.client.Client` can bring to train on."""

    _timeout: float
    _datasets: dataset_pb2_grpc.DatasetServiceStub

    def upload_dataset(
        self,
        name: str,
        form: dataset_pb2.DatasetForm.ValueType,
        rows: Iterable[dataset_pb2.DatasetRow],
        replace: bool = False,
    ) -> dataset_pb2.Dataset:
        """Store rows under a name, all of them or none. `diapason.datasets.files` reads them from files.

        What ``rows`` raises is raised here, and nothing is stored then.
        """
        failed: list[BaseException] = []
        header = dataset_pb2.DatasetHeader(name=name, form=form, replace=replace)

        def parts() -> Iterator[dataset_pb2.UploadDatasetRequest]:
            yield dataset_pb2.UploadDatasetRequest(header=header)
            try:
                sent = 0
                for batch in _batches(rows):
                    yield dataset_pb2.UploadDatasetRequest(rows=dataset_pb2.DatasetRows(rows=batch))
                    sent += len(batch)
                yield dataset_pb2.UploadDatasetRequest(sent=sent)
            except Exception as error:
                # grpcio prints the traceback of whoever raises here. What ends without a count is not stored.
                failed.append(error)

        try:
            with errors():
                return self._datasets.UploadDataset(parts()).dataset
        except Exception:
            if failed:
                raise failed[0] from None
            raise

    def datasets(self) -> Sequence[dataset_pb2.Dataset]:
        """All datasets, by name."""
        with errors():
            return self._datasets.ListDatasets(dataset_pb2.ListDatasetsRequest(), timeout=self._timeout).datasets

    def dataset(self, name: str) -> dataset_pb2.Dataset:
        """One dataset."""
        with errors():
            return self._datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=name), timeout=self._timeout).dataset

    def delete_dataset(self, name: str) -> None:
        """Forget a dataset. Models that were trained on it stay."""
        with errors():
            self._datasets.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=name), timeout=self._timeout)


def _batches(rows: Iterable[dataset_pb2.DatasetRow]) -> Iterator[list[dataset_pb2.DatasetRow]]:
    batch: list[dataset_pb2.DatasetRow] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == _ROWS or size + row.ByteSize() > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.ByteSize()
    if batch:
        yield batch
