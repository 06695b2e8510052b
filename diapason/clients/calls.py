"""What all calls of the client share."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from diapason.errors import from_rpc_error


@contextmanager
def errors() -> Iterator[None]:
    """Raise a failed call's error as a `DiapasonError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
