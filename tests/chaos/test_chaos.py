"""The first seeds of the crash test, and the oracle tried on stories that are true and on lies."""

from pathlib import Path

import pytest

from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as pb
from tests.chaos.catalogs import Catalog
from tests.chaos.oracle import Clock, Content, Documents, Violation
from tests.chaos.routes import EARLIER, Routes
from tests.chaos.seeds import run

ONE, TWO, THREE = Content("one"), Content("two"), Content("three")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_i5_what_search_acknowledged_is_true_after_every_kill(seed: int) -> None:
    outcome = run(None, Catalog(), seed)
    assert not outcome.failure, "\n".join([*outcome.history[-60:], outcome.failure])
    assert outcome.counts["found"] > 10


class Story:
    """Documents with a clock, told in sentences."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.documents = Documents(self.clock)

    def wrote(self, content: Content | None, revision: int = 0) -> None:
        (write,) = self.documents.begin([("d", content)])
        self.documents.acknowledge(write, revision)

    def may_have_written(self, content: Content | None) -> None:
        self.documents.abandon(self.documents.begin([("d", content)]))

    def reads(self, content: Content | None, revision: int = 0) -> None:
        self.documents.read("d", content, self.clock.tick(), revision)


def test_what_was_acknowledged_must_be_read() -> None:
    story = Story()
    story.reads(None)
    story.wrote(ONE)
    story.reads(ONE)
    for lie in (None, TWO):
        with pytest.raises(Violation):
            story.reads(lie)
    story.wrote(None)
    story.reads(None)
    with pytest.raises(Violation):
        story.reads(ONE)


def test_what_was_not_answered_may_be_read_or_not_but_does_not_change_its_mind() -> None:
    for seen, other in ((ONE, TWO), (TWO, ONE)):
        story = Story()
        story.wrote(ONE)
        story.may_have_written(TWO)
        story.reads(seen)
        story.reads(seen)
        with pytest.raises(Violation):
            story.reads(other)


def test_what_was_not_answered_is_over_once_something_later_was_acknowledged() -> None:
    story = Story()
    story.may_have_written(ONE)
    story.wrote(TWO)
    with pytest.raises(Violation):
        story.reads(ONE)
    story.reads(TWO)


def test_of_one_stream_the_later_write_counts() -> None:
    story = Story()
    first, second, _ = story.documents.begin([("d", ONE), ("d", TWO), ("d", THREE)])
    story.documents.acknowledge(first)
    story.documents.acknowledge(second)
    with pytest.raises(Violation):
        story.reads(ONE)
    story.reads(THREE)  # not acknowledged yet, and allowed
    with pytest.raises(Violation):
        story.reads(TWO)


def test_reads_at_the_same_time_may_see_the_moment_before_and_after() -> None:
    story = Story()
    story.wrote(ONE)
    story.documents.begin([("d", TWO)])
    early = story.clock.tick()
    story.documents.read("d", TWO, story.clock.tick())
    story.documents.read("d", ONE, early)
    with pytest.raises(Violation):
        story.reads(ONE)


def test_revisions_name_one_content_each_and_only_grow() -> None:
    story = Story()
    story.wrote(ONE, revision=1)
    story.wrote(TWO, revision=2)
    with pytest.raises(Violation, match="revision"):
        story.reads(TWO, revision=1)
    story.reads(TWO, revision=2)
    with pytest.raises(Violation, match="two contents"):
        story.wrote(THREE, revision=2)


def route(generation: int, index: str) -> pb.Route:
    return pb.Route(generation=generation, index=index, encoder=VersionRef(digest=index))


def test_routes_only_go_on_as_asked() -> None:
    routes = Routes()
    routes.created(route(1, "a"))
    routes.asked(2, "b")
    routes.seen(route(1, "a"), routes.floor)
    routes.seen(route(2, "b"), routes.floor)
    with pytest.raises(Violation, match="went back"):
        routes.seen(route(1, "a"), routes.floor)
    with pytest.raises(Violation, match="asked for was nothing"):
        routes.seen(route(3, "c"), routes.floor)
    routes.asked(3, EARLIER)
    with pytest.raises(Violation, match="an earlier index"):
        routes.seen(route(3, "c"), routes.floor)
    routes.quiet([route(3, "a"), route(2, "b"), route(1, "a")])


@pytest.mark.parametrize(
    "listed",
    [
        [route(1, "a")],
        [route(2, "b")],
        [route(1, "a"), route(2, "b")],
        [route(2, "a"), route(1, "a")],
        [route(3, "a"), route(2, "b"), route(1, "a")],
    ],
)
def test_a_history_that_lost_changed_or_invented_something_is_noticed(listed: list[pb.Route]) -> None:
    routes = Routes()
    routes.created(route(1, "a"))
    routes.asked(2, "b")
    routes.seen(route(2, "b"), routes.floor)
    with pytest.raises(Violation):
        routes.quiet(listed)


def test_a_switch_that_was_not_listed_in_a_quiet_moment_did_not_happen() -> None:
    routes = Routes()
    routes.created(route(1, "a"))
    routes.asked(2, "b")
    routes.quiet([route(1, "a")])
    with pytest.raises(Violation, match="asked for was nothing"):
        routes.seen(route(2, "b"), routes.floor)


def test_catalogs_on_sqlite_are_files_of_their_own(tmp_path: Path) -> None:
    with Catalog().fresh(tmp_path) as url:
        assert url == f"sqlite:///{tmp_path}/catalog.db"
