"""What passes between the embedder and an inference process, over a socket pair.

A frame is two little-endian 32-bit lengths, a JSON header, and bytes (vectors; empty otherwise).

    embedder → process   {folder, …}  once: what to load (`LoadSpec`)
    process → embedder   {ready}, or {refused: why} and the end
    embedder → process   {id, texts or pairs or cuts, wide}
    process → embedder   {id, tokens, …} with rows, or {id, passages}, or {id, error, trace}
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from socket import socket
from typing import Any

_LENGTHS = struct.Struct("<II")

Header = dict[str, Any]


@dataclass(frozen=True)
class LoadSpec:
    """What a process is to serve: the verified files in ``folder``, with so many slots of ``threads`` each.

    ``wide_threads`` are for one batch that has the machine to itself.
    """

    folder: str
    runtime: str
    reranker: bool
    raw: bool
    max_tokens: int
    slots: int
    threads: int
    wide_threads: int


def encode(header: Header, body: bytes = b"") -> bytes:
    """One frame."""
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(head), len(body)) + head + body


def receive(connection: socket) -> tuple[Header, bytes] | None:
    """The next frame, or None once the other side has closed."""
    lengths = _exactly(connection, _LENGTHS.size)
    if lengths is None:
        return None
    head, body = _LENGTHS.unpack(lengths)
    content = _exactly(connection, head + body)
    return None if content is None else (json.loads(content[:head]), content[head:])


class Decoder:
    """Frames out of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """The frames that are whole with this piece."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(self._buffer)
            end = _LENGTHS.size + head + body
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[_LENGTHS.size : end])
            del self._buffer[:end]
            yield json.loads(content[:head]), content[head:]


def _exactly(connection: socket, count: int) -> bytes | None:
    parts = bytearray(count)
    view, have = memoryview(parts), 0
    while have < count:
        got = connection.recv_into(view[have:])
        if not got:
            return None
        have += got
    return bytes(parts)
