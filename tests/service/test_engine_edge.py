"""What the embedded engine makes of its folder."""

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from services.kit.server import CannotStart
from services.search.adapters.edge import EdgeEngine, EdgeIndex
from services.search.domain.model import FieldType
from tests.support.engines import by_vector, index, point, vectors


async def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    first = EdgeEngine(tmp_path)
    with pytest.raises(CannotStart):
        EdgeEngine(tmp_path)
    await first.close()
    again = EdgeEngine(tmp_path)
    assert again.owner == first.owner
    assert await again.free_bytes() > 0
    await again.close()


async def test_what_was_dropped_while_the_folder_had_no_owner_is_deleted(tmp_path: Path) -> None:
    engine = EdgeEngine(tmp_path)
    for name in ("one", "two"):
        await (await engine.create(index(name))).close()
    (tmp_path / "shards" / "three.partial").mkdir()
    await engine.keep_only({"one"})
    assert await engine.open(index("two")) is None
    assert not (tmp_path / "shards" / "three.partial").exists()
    opened = await engine.open(index("one"))
    assert opened is not None
    await opened.close()
    await engine.close()


async def test_an_unreadable_index_is_set_aside(tmp_path: Path) -> None:
    engine = EdgeEngine(tmp_path)
    (tmp_path / "shards" / "one").mkdir()
    (tmp_path / "shards" / "one" / "edge_config.json").write_text("nonsense")
    assert await engine.open(index("one")) is None
    made = await engine.create(index("one"))
    assert await made.count() == 0
    await made.close()
    assert (tmp_path / "shards" / "one.broken" / "edge_config.json").read_text() == "nonsense"
    await engine.keep_only({"one"})
    assert (tmp_path / "shards" / "one.broken").exists()
    await engine.close()


# From 10,240 points of this size on an index has a graph.
_DIMENSION, _MANY = 256, 10_500


async def _large(engine: EdgeEngine) -> EdgeIndex:
    made = await engine.create(index("one", dimension=_DIMENSION, dimensions=(), bm25=None))
    rows = vectors(_MANY, dimension=_DIMENSION)
    for start in range(0, _MANY, 500):
        await made.upsert([point(str(i), year=i) for i in range(start, start + 500)], rows[start : start + 500])
    return made


async def _found(made: EdgeIndex, seed: int) -> list[str]:
    [hits] = await made.query([by_vector(vectors(1, seed=seed, dimension=_DIMENSION)[0])])
    return [hit.document_id for hit in hits]


@pytest.mark.slow
async def test_i5_an_index_serves_and_takes_writes_while_its_graph_is_built(tmp_path: Path) -> None:
    engine = EdgeEngine(tmp_path)
    made = await _large(engine)
    forming = asyncio.create_task(made.optimize())
    answered = 0
    written = 0
    while not forming.done():
        await _found(made, 0)
        answered += 1
        await asyncio.sleep(0)
        if written < 1_500:  # more than are taken over in one go
            names = [f"new {written + i}" for i in range(100)]
            await made.upsert([point(name) for name in names], vectors(100, seed=100 + written, dimension=_DIMENSION))
            written += 100
            await made.delete({str(written): (0, 1)}, up_to=1)
            await made.refresh([point(str(written + 1), year=-1)])
            await made.declare({"year": FieldType.INTEGER})
    assert await forming
    assert answered > 20
    assert written == 1_500
    for again in (False, True):
        if again:
            await made.close()
            opened = await engine.open(index("one", dimension=_DIMENSION, dimensions=(), bm25=None))
            assert opened is not None
            made = opened
        assert await made.count() == _MANY + 1_500 - 15
        assert (await _found(made, 100))[0] == "new 0"
        assert not await made.held(["100"])
        stored = await made.stored(["new 1499", "200"])
        assert stored.keys() == {"new 1499"}  # 200 was deleted
        row = vectors(100, seed=1_500, dimension=_DIMENSION)[99]
        assert stored["new 1499"][0].vector == pytest.approx(row / np.linalg.norm(row), abs=1e-5)
    assert {path.name for path in (tmp_path / "shards" / "one").iterdir()} == {"current", "2"}
    await made.close()
    await engine.close()


@pytest.mark.slow
async def test_i6_an_index_goes_on_where_forming_it_was_killed_or_cut_off(tmp_path: Path) -> None:
    engine = EdgeEngine(tmp_path)
    made = await _large(engine)
    before = await _found(made, 0)
    forming = asyncio.create_task(made.optimize())
    child = await _child(forming)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="-9"):
        await forming
    assert await _found(made, 0) == before
    forming = asyncio.create_task(made.optimize())
    await _child(forming)
    forming.cancel()
    await asyncio.gather(forming, return_exceptions=True)
    assert {path.name for path in (tmp_path / "shards" / "one").iterdir()} == {"current", "1"}
    (tmp_path / "shards" / "one" / "2").mkdir()  # as a crash leaves it
    await made.close()
    opened = await engine.open(index("one", dimension=_DIMENSION, dimensions=(), bm25=None))
    assert opened is not None
    assert await _found(opened, 0) == before
    assert {path.name for path in (tmp_path / "shards" / "one").iterdir()} == {"current", "1"}
    await opened.close()
    await engine.close()


async def _child(forming: "asyncio.Task[bool]") -> int:
    """The process that was started for it."""
    while not forming.done():
        if child := _forming_process():
            return child
        await asyncio.sleep(0.01)
    raise AssertionError("it ended without a process")


def _forming_process() -> int | None:
    for task in Path("/proc/self/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if b"edge_forming" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    return None
