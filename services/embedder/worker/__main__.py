"""Entry of the inference process: `python -m services.embedder.worker FD`, or `--describe RUNTIME`."""

import json
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict

# Each slot's thread tokenizes its own batch; set before the tokenizers' library looks.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from services.embedder.worker import choosing, cutting, frames
from services.embedder.worker.frames import Header, LoadSpec
from services.embedder.worker.runtime import WIDE, BadVersion, Cut, Model


def serve(connection: socket.socket) -> None:
    """LoadSpec what the first frame says, then answer batches until the embedder closes its side."""
    first = frames.receive(connection)
    if first is None:
        return
    what = LoadSpec(**first[0])
    try:
        model = choosing.load(what)
        model.warm()
    except BadVersion as error:
        traceback.print_exc()
        connection.sendall(frames.encode({"refused": str(error)}))
        return
    except Exception as error:
        traceback.print_exc()
        connection.sendall(
            frames.encode({"refused": f"it can't run ({type(error).__name__}); the embedder's log has it"})
        )
        return
    connection.sendall(frames.encode({"ready": True}))
    reading, sending = threading.Lock(), threading.Lock()
    others = range(1, what.slots)
    for slot in others:
        threading.Thread(target=_work, args=(model, slot, connection, reading, sending), daemon=True).start()
    _work(model, 0, connection, reading, sending)


def _work(model: Model, slot: int, connection: socket.socket, reading: threading.Lock, sending: threading.Lock) -> None:
    """Take the next batch, compute it and answer, until there are no more.

    The slots' threads take turns at the socket: handing batches from one that reads to one that
    computes would cost each batch a switch of threads.
    """
    with suppress(OSError):  # the embedder is gone: as good as an end
        while True:
            with reading:
                frame = frames.receive(connection)
            if frame is None:
                return
            answer = _answer(model, slot, frame[0])
            with sending:
                connection.sendall(answer)


def _answer(model: Model, slot: int, batch: Header) -> bytes:
    try:
        if "cuts" in batch:
            cut = [cutting.cut(model, Cut(*asked)).spans for asked in batch["cuts"]]
            return frames.encode({"id": batch["id"], "passages": cut})
        inputs = batch["texts"] if "texts" in batch else [(query, text) for query, text in batch["pairs"]]
        output = model.run(inputs, WIDE if batch["wide"] else slot)
    except Exception as error:
        name = type(error).__name__
        return frames.encode({"id": batch["id"], "error": name, "trace": traceback.format_exc()})
    header = {
        "id": batch["id"],
        "tokens": output.tokens,
        "truncated": output.truncated,
        "padded_tokens": output.padded_tokens,
        "tokenization": output.tokenization,
        "inference": output.inference,
    }
    return frames.encode(header, output.rows.tobytes())


def main(arguments: list[str]) -> int:
    """Serve, or say what would compute here."""
    if arguments[0] == "--describe":
        sys.stdout.write(json.dumps(asdict(choosing.describe(arguments[1]))))
        return 0
    # The embedder drains first and then closes the socket, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(socket.socket(fileno=int(arguments[0])))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Slots may be in a forward pass whose answer nobody waits for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
