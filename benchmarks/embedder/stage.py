"""The embedder under test: a real process, real artifacts, and a registry that the benchmark itself plays."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from obstore.store import from_url

from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from diapason.trainer.v1 import registry_pb2, registry_pb2_grpc
from services.trainer import artifacts
from services.trainer.domain.model import PublishedVersion
from services.trainer.process.spec import CANDIDATE, Spec

_WAIT_SECONDS = 120.0
# Seldom, since each look takes time from what is measured.
_LOOK_SECONDS = 0.05


class _Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Answers each report with what is desired now, and repeats it when that changes."""

    def __init__(self) -> None:
        self._desired: list[PublishedVersion] = []
        self._changed = threading.Condition()

    def want(self, desired: Sequence[PublishedVersion]) -> None:
        with self._changed:
            self._desired = list(desired)
            self._changed.notify_all()

    def Sync(
        self, request_iterator: Iterator[registry_pb2.SyncRequest], context: grpc.ServicerContext
    ) -> Iterator[registry_pb2.SyncResponse]:
        # Reports are not read: the benchmark asks GetInfo, which flow control never holds back.
        while context.is_active():
            with self._changed:
                answer = registry_pb2.SyncResponse(
                    desired=[
                        registry_pb2.DesiredVersion(
                            version=VersionRef(model=v.model, number=v.number, digest=v.digest), artifact_path=v.path
                        )
                        for v in self._desired
                    ]
                )
            yield answer
            with self._changed:
                self._changed.wait(0.5)


@dataclass
class Stage:
    """A running embedder and the versions published for it, which have the same weights."""

    address: str
    versions: list[PublishedVersion]
    process: "subprocess.Popen[bytes]"
    stub: "rpc.EmbedderServiceStub"
    registry: _Registry

    def hold(self, *versions: PublishedVersion) -> float:
        """Have it hold exactly these; returns the seconds until it did."""
        started = time.perf_counter()
        self.registry.want(versions)
        wanted = {version.digest for version in versions}
        while time.perf_counter() - started < _WAIT_SECONDS:
            held = {s.version.digest: s for s in self.stub.GetInfo(pb.GetInfoRequest(), timeout=10).versions}
            if held.keys() == wanted and all(s.state == pb.VERSION_STATE_READY for s in held.values()):
                return time.perf_counter() - started
            failed = [s.reason for s in held.values() if s.state == pb.VERSION_STATE_FAILED]
            if failed:
                raise RuntimeError(f"a version failed: {failed}")
            time.sleep(_LOOK_SECONDS)
        raise RuntimeError("the embedder did not come to hold what it should")

    def memory(self) -> int:
        """Bytes of the service and its inference processes, shared pages counted once."""
        parents, found = _parents(), [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return sum(_proportional_bytes(pid) for pid in found)


@contextmanager
def running(base: Path, port: int, versions: int) -> Iterator[Stage]:
    """An embedder for the time of the block. ``base`` is an exported candidate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "store").mkdir()
        store = from_url((folder / "store").as_uri())
        published = [
            artifacts.publish(
                store, base, model="bench", number=i + 1, lineage=Lineage(source="benchmark", run_id=f"copy-{i}")
            )
            for i in range(versions)
        ]
        registry = _Registry()  # type: ignore[abstract]
        server = grpc.server(futures.ThreadPoolExecutor(4))
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
        registry_port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        environment = {
            **os.environ,
            "DIAPASON_LISTEN": f"127.0.0.1:{port}",
            "DIAPASON_REGISTRY_ADDRESS": f"127.0.0.1:{registry_port}",
            "DIAPASON_ARTIFACTS_URL": (folder / "store").as_uri(),
            "DIAPASON_CACHE_DIR": str(folder / "cache"),
            "DIAPASON_QUERY_CACHE_ENTRIES": "0",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "services.embedder"], env=environment, stderr=log)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(_WAIT_SECONDS)
                yield Stage(f"127.0.0.1:{port}", published, process, rpc.EmbedderServiceStub(channel), registry)
        except BaseException:
            sys.stderr.write((folder / "log").read_text()[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(60)
            server.stop(0)


def export(source: str, folder: Path) -> Path:
    """Make a candidate of a model, as an import does; returns its folder."""
    folder.mkdir(exist_ok=True)
    Spec(kind="import", source=source).write(folder)
    subprocess.run(
        [sys.executable, "-m", "services.trainer.process", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    return folder / CANDIDATE


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
