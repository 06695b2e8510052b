"""The random life of a search service that is killed again and again."""

import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from diapason.errors import NotFound
from diapason.search.v1 import collection_pb2 as pb
from tests.chaos import planted
from tests.chaos.aside import Aside
from tests.chaos.catalogs import Catalog
from tests.chaos.checking import Checker
from tests.chaos.moving import Mover
from tests.chaos.oracle import Violation
from tests.chaos.process import Life, Settings
from tests.chaos.routes import Indexes
from tests.chaos.searching import Searcher
from tests.chaos.world import COLLECTION, Died, World
from tests.chaos.writing import Writer

# Of an index that no longer serves: it outlives the seed, or soon makes rollback impossible.
_RETENTIONS = (3600.0, 3600.0, 0.5, 0.0)
_QUANTIZATIONS = (pb.QUANTIZATION_NONE, pb.QUANTIZATION_NONE, pb.QUANTIZATION_INT8, pb.QUANTIZATION_TURBO)
# A start takes less than this; kills during one fall anywhere within it.
_START_SECONDS = 0.7
# Most calls take some milliseconds; kills during one fall within this range, evenly by its logarithm.
_CALL_SECONDS = (0.0003, 0.1)

# What goes on when the process is killed, and how often.
_LAST_ACTS = {"write": 3, "delete": 1, "start": 1, "build": 1, "switch": 2, "back": 1, "aside": 1, "stop": 1, "wait": 1}

Act = Callable[[], None]


class Driver:
    """Starts, uses and kills the service."""

    def __init__(self, seed: int, settings: Settings, embedder: planted.PlantedEmbedder, catalog: Catalog) -> None:
        self.world = World()
        self._seed = str(seed)
        self._random = random.Random(f"{seed} driver")
        self._settings = settings
        self._embedder = embedder
        self._catalog = catalog
        self._lives = 0

    def run(self) -> None:
        """All of it. Raises ``Violation``."""
        threads: list[threading.Thread] = []
        try:
            self._start()
            self._set_up()
            threads = self._threads()
            self._writer.fill(self._random.choice([0, 0, 40, 200, 1_100]))
            for _ in range(self._random.randint(2, 4)):
                self._live()
                self._die()
            self._settle_and_check_everywhere()
        except Died as error:
            raise Violation("a call was not answered though nobody killed the process") from error
        finally:
            self.world.gate.end()
            self._end_life()
            for thread in threads:
                thread.join()
        self._check_threads()

    def _set_up(self) -> None:
        """The collection, in a life that may end meanwhile, and those who will use it."""
        retention = self._random.choice(_RETENTIONS)
        collection = self._create(self._settings_of_collection(), retention)
        self.world.routes.created(collection.route)
        self.world.has_words = collection.settings.HasField("bm25")
        kept = retention == _RETENTIONS[0]
        indexes = Indexes(collection.route.index, collection.route.encoder.number, kept)
        self._mover = Mover(self._seed, self.world, indexes, kept)
        self._writer = Writer("driver", self._seed, self.world)
        self._searcher = Searcher("driver", self._seed, self.world)
        self._checker = Checker(self.world, self._writer, self._searcher, self._mover)
        self._aside = Aside(self._seed, self.world)

    def _settings_of_collection(self) -> pb.CollectionSettings:
        settings = pb.CollectionSettings(
            dimensions=[planted.SMALL],
            quantization=self._random.choice(_QUANTIZATIONS),
            fields={"group": pb.FIELD_TYPE_KEYWORD, "n": pb.FIELD_TYPE_INTEGER},
        )
        if self._random.random() < 0.3:
            settings.bm25.SetInParent()
        if self._random.random() < 0.3:
            settings.passages.max_tokens = 64  # all that is written here is shorter
        return settings

    def _create(self, settings: pb.CollectionSettings, retention: float) -> pb.Collection:
        killing = self._timer() if self._random.random() < 0.3 else nullcontext()
        try:
            with killing, self.world.asking("create") as client:
                created = client.create_collection(COLLECTION, planted.version(1), (), retention, settings)
        except Died:
            self._next_life()
        else:
            if self._life().killed.is_set():
                self._next_life()
            return created
        try:
            with self.world.asking("look for it", NotFound) as client:
                return client.collection(COLLECTION)
        except NotFound:
            return self._create(settings, retention)

    def _threads(self) -> list[threading.Thread]:
        writer = Writer("writer", self._seed, self.world)
        searcher = Searcher("searcher", self._seed, self.world)
        threads = [
            threading.Thread(target=self._work, args=(step,), name=name)
            for name, step in (("writer", writer.step), ("searcher", searcher.step))
        ]
        for thread in threads:
            thread.start()
        return threads

    def _work(self, step: Act) -> None:
        """A thread: one call after the other, while the gate is open."""
        while True:
            with self.world.gate.passed() as go_on:
                if not go_on:
                    return
                try:
                    step()
                except Died:
                    self.world.gate.shut()
                except Exception as error:
                    self.world.fail(error)
                    return

    def _live(self) -> None:
        """Some calls, with the other threads' beside them."""
        self.world.gate.open()
        acts: dict[Act, int] = {self._writer.step: 3, self._searcher.step: 1, self._mover.step: 5}
        acts |= {self._mover.list_routes: 1, self._aside.step: 1}
        for act in self._random.choices(list(acts), list(acts.values()), k=self._random.randint(2, 7)):
            act()
            self._check_threads()

    def _die(self) -> None:
        """One call during or after which the process is killed; then the next life, and what must hold at once."""
        act, killing = self._last_act()
        with killing, suppress(Died):
            act()
        self._leave_life()
        # What is found now was in the index before: nothing is embedded until all has been looked at.
        with self._embedder.holding_bulk():
            self._start()
            self._checker.durable()
            self._aside.check()
        if self._random.random() < 0.5:
            self._checker.settled()
        self._check_threads()

    def _last_act(self) -> tuple[Act, AbstractContextManager[None]]:
        kind = self._random.choices(list(_LAST_ACTS), list(_LAST_ACTS.values()))[0]
        if kind in ("switch", "build") and not self._mover.indexes.open_builds():
            self._mover.start()
        if kind == "switch" and self._random.random() < 0.7:
            self._mover.wait()
        life = self._life()
        acknowledged = self._random.choice([1, 1, 2, 10, 40])

        def write() -> None:
            self._writer.step(lambda count: life.kill() if count == acknowledged else None)

        acts: dict[str, Act] = {
            "write": write,
            "delete": self._writer.delete,
            "start": self._mover.start,
            "build": self._mover.wait,
            "switch": self._mover.switch,
            "back": self._mover.roll_back,
            "aside": self._aside.step,
            "stop": life.stop,
            "wait": lambda: None,
        }
        killings: list[Callable[[], AbstractContextManager[None]]]
        killings = [self._timer, self._timer, self._alarm, nullcontext]
        return acts[kind], self._random.choice(killings)()

    @contextmanager
    def _timer(self) -> Iterator[None]:
        """Kill the process some time after the block began, or at its end."""
        low, high = map(math.log, _CALL_SECONDS)
        timer = threading.Timer(math.exp(self._random.uniform(low, high)), self._life().kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Kill the process while it waits for one of the next batches to be embedded."""
        self._embedder.alarm.set(self._random.choice([1, 2, 5]), self._life().kill)
        try:
            yield
        finally:
            self._embedder.alarm.clear()

    def _next_life(self) -> None:
        """End the process, with every call to it, and start the next."""
        self._leave_life()
        self._start()

    def _leave_life(self) -> None:
        """End the process, with every call to it."""
        self._end_life()
        self.world.gate.close()
        self._catalog.wait_for_the_dead(self._settings.catalog_url)

    def _end_life(self) -> None:
        if life := self.world.life:
            self.world.history.note(f"life {life.number} is over")
            life.end()
            self.world.gate.shut()
            life.bury()

    def _start(self) -> None:
        """Start the process, sometimes killing it while it starts."""
        while True:
            if self.world.life:
                self.world.life.close()
            self._lives += 1
            self.world.life = life = Life(self._settings, self._lives)
            self.world.history.note(f"life {life.number} begins")
            self.world.count("lives")
            if self._random.random() < 0.75:
                life.wait_until_ready()
                return
            life.kill_after(self._random.uniform(0, _START_SECONDS))
            self._catalog.wait_for_the_dead(self._settings.catalog_url)

    def _settle_and_check_everywhere(self) -> None:
        self.world.gate.open()
        self._mover.start()
        self._mover.step()
        self.world.gate.close()
        self._checker.everywhere()
        self._aside.check_settled()

    def _life(self) -> Life:
        assert self.world.life is not None
        return self.world.life

    def _check_threads(self) -> None:
        if self.world.failure:
            raise self.world.failure
