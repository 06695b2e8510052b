"""Bringing a shard into form in a process of its own: `python -m services.search.adapters.edge_forming FOLDER`.

The engine's calls hold the interpreter until they are done, and to build a graph takes seconds for ten
thousand vectors and minutes for a million: within the service nothing else would be answered meanwhile.
"""

import asyncio
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import qdrant_edge as qdrant

# Lower than everything that serves.
_NICENESS = 15


async def form(folder: Path) -> None:
    """Have a closed shard brought into form. Raises ``RuntimeError``; the shard is then not to be used."""
    command = sys.executable, "-m", __name__, str(folder)
    # The other end of its standard input closes with this process, however that ends.
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr
        said = await process.stderr.read()
        if status := await process.wait():
            raise RuntimeError(f"forming {folder.name} ended with {status}: {said.decode(errors='replace')[-2000:]}")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing ever comes but the end
    os._exit(1)


def main(folder: str) -> None:
    """Form and close."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    shard = qdrant.EdgeShard.load(folder)
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main(sys.argv[1])
