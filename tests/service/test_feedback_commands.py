"""`diapason feedback`, and the client's calls, against a feedback service in this process."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diapason import errors
from diapason.cli.feedback.command import bars
from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.feedback.v1.feedback_pb2_grpc import FeedbackServiceStub
from diapason.search.v1.collection_pb2 import Route
from tests.support.feedback import listening, said
from tests.support.serving import in_thread
from tests.support.terminal import Command


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("DIAPASON_DATA", str(tmp_path / "data"))
    with in_thread(lambda: listening(f"sqlite:///{tmp_path / 'feedback.db'}")) as address:
        monkeypatch.setenv("DIAPASON_FEEDBACK_ADDRESS", address)
        with Client(Addresses(feedback=address)) as made:
            yield made


def searched(client: Client, data: Path) -> None:
    """A search, as `diapason search` leaves it."""
    shown = [pb.ShownDocument(document_id=f"d{i}", rank=i) for i in (1, 2)]
    impression = pb.Impression(search_id="s1", query="owls", route=Route(collection="films"), shown=shown)
    stub: FeedbackServiceStub = client._feedback
    stub.RecordImpressions(pb.RecordImpressionsRequest(impressions=[impression]))
    (data / "last-search.json").write_text(json.dumps({"search_id": "s1", "documents": ["d1", "d2"]}))


def signals(client: Client, current: bool = False) -> list[str]:
    return [pb.Signal.Name(each.feedback.signal)[7:] for each in client.feedback(current=current)]


def test_a_result_is_said_to_help_or_not_and_taken_back(client: Client, command: Command, tmp_path: Path) -> None:
    searched(client, tmp_path / "data")
    assert command("feedback", "up", "1")[:2] == (0, "thumbs up for 'd1' stored\n")
    assert command("feedback", "up", "1")[:2] == (0, "thumbs up for 'd1' was stored before\n")
    assert json.loads(command("feedback", "down", "1", "--json")[1])["duplicate"] is False
    # Minds change, and change back.
    assert command("feedback", "up", "1", "--reason", "after all")[1] == "thumbs up for 'd1' stored\n"
    assert signals(client) == ["THUMBS_UP", "THUMBS_DOWN", "THUMBS_UP"]
    assert signals(client, current=True) == ["THUMBS_UP"]
    assert command("feedback", "withdraw", "d1")[1] == "withdrawal for 'd1' stored\n"
    assert signals(client, current=True) == []
    said_elsewhere = command("feedback", "down", "x", "--query", "mice", "-c", "books", "--actor", "u1")
    assert said_elsewhere[1] == "thumbs down for 'x' stored\n"
    [stored] = client.feedback("books")
    assert (stored.query, stored.feedback.actor, stored.feedback.client) == ("mice", "u1", "diapason")


def test_thumbs_say_whether_they_are_new(client: Client, tmp_path: Path) -> None:
    searched(client, tmp_path / "data")
    assert client.thumbs("s1", "d1", up=True, actor="u1")
    assert not client.thumbs("s1", "d1", up=True, actor="u1")
    assert client.thumbs("s1", "d1", up=False, actor="u1")
    assert client.thumbs("s1", "d1", up=True, actor="u1")
    assert not client.thumbs("s1", "d1", up=True, actor="u1")
    assert signals(client) == ["THUMBS_UP", "THUMBS_DOWN", "THUMBS_UP"]


def test_what_was_said_is_listed(client: Client, command: Command) -> None:
    client.submit([
        said("k1", actor="u1", reason="quite so"),
        said("k2", "d2", pb.SIGNAL_GRADE, value=0.5, collection="books"),
        said("k3", "d3", pb.SIGNAL_COMMENT, reason="[bold]not markup[/bold]"),
    ])  # fmt: skip
    out = command("feedback", "list")[1]
    assert all(part in out for part in ("quite so", "grade 0.5", "u1", "[bold]not markup[/bold]", "thumbs up"))
    found = json.loads(command("feedback", "list", "-c", "films", "--signal", "thumbs-up", "--json")[1])
    assert [each["feedback"]["idempotency_key"] for each in found] == ["k1"]
    assert len(json.loads(command("feedback", "list", "-n", "2", "--json")[1])) == 2
    assert len(json.loads(command("feedback", "list", "--current", "--json")[1])) == 2
    tomorrow = (datetime.now().astimezone() + timedelta(days=1)).strftime("%Y-%m-%d")
    assert json.loads(command("feedback", "list", "--since", tomorrow, "--json")[1]) == []
    assert len(json.loads(command("feedback", "list", "--until", tomorrow, "--json")[1])) == 3
    code, _, err = command("feedback", "list", "--signal", "likes")
    assert (code, "--signal 'likes': give one of thumbs_up, thumbs_down, grade" in err) == (2, True)


def test_counts_are_shown(client: Client, command: Command) -> None:
    client.submit([said(f"k{i}", f"d{i}", actor=f"u{i}") for i in range(5)])
    client.submit([said(f"r{i}", f"d{i}", actor="robot") for i in range(61)])
    for arguments in (("feedback",), ("feedback", "summary"), ("feedback", "summary", "-c", "films")):
        out = " ".join(command(*arguments)[1].split())
        assert "0 searches noted; feedback on 1 queries by 6 named actors, 1 of them flagged" in out
        assert "thumbs up │ 66" in out
        assert f"{datetime.now(UTC).date()}, at most 66 a day" in out
    assert json.loads(command("feedback", "--json")[1])["actors"] == "6"
    assert "at most" not in command("feedback", "summary", "-c", "none")[1]


def test_bars_show_what_is_not_zero() -> None:
    assert bars([0, 1, 1_000, 500]) == " ▁█▄"
    assert bars([0, 0]) == "  "


def test_judgments_go_into_a_file(client: Client, command: Command, tmp_path: Path) -> None:
    client.submit([said("k1"), said("k2", "d2", pb.SIGNAL_THUMBS_DOWN)])
    file = tmp_path / "judgments.jsonl"
    code, out, err = command(
        "feedback", "export", str(file), "-c", "films", "--policy", "distances", "--consumer", "me"
    )
    assert (code, out.startswith("2 judgments of 'films' by policy distances v1, in ")) == (0, True), err
    assert [json.loads(line)["target"] for line in file.read_text().splitlines()] == [0.8, -0.5]
    client.record_training("me", VersionRef(model="tiny", number=1, digest="0" * 64))
    code, _, err = command("feedback", "export", str(file), "-c", "films")
    assert (code, "is there already" in err) == (2, True)
    for arguments, said_of_it in (
        ((str(tmp_path / "no" / "where"),), "there is no folder"),
        ((str(tmp_path / "new"), "--policy", "likes"), "the known policies are clicks, distances, thumbs"),
    ):
        code, _, err = command("feedback", "export", *arguments, "-c", "films")
        assert (code, said_of_it in err) == (2, True), err
    assert sorted(path.name for path in tmp_path.glob("*new*")) == []


def test_a_person_is_erased_after_asking(
    client: Client, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit([said("k1", actor="u1"), said("k2", "d2", actor="u2")])
    list(client.judgments("films", consumer="run-1"))
    client.record_training("run-1", VersionRef(model="tiny", number=2, digest="0" * 64))
    (tmp_path / "answer").write_text("n\n")
    with (tmp_path / "answer").open() as answer:
        monkeypatch.setattr("sys.stdin", answer)
        code, _, err = command("feedback", "erase", "u1")
    assert (code, "--yes deletes without asking" in err) == (2, True)
    assert len(signals(client)) == 2
    out = command("feedback", "erase", "u1", "--yes")[1]
    assert "deleted: 1 pieces of feedback (1 thumbs up), 0 searches" in out
    assert all(part in out for part in ("run-1", "tiny version 2"))
    assert json.loads(command("feedback", "erase", "u2", "-y", "--json")[1])["consumers"][0]["consumer"] == "run-1"
    assert command("feedback", "erase", "u1", "--yes")[1] == "deleted: 0 pieces of feedback, 0 searches\n"
    assert command("feedback", "erase", "", "--yes")[0] == 2


def test_judgments_under_a_policy_of_ones_own(client: Client) -> None:
    client.submit([said("k1")])
    targets = [pb.SignalTarget(signal=pb.SIGNAL_THUMBS_UP, target=0.25, weight=2)]
    [answer] = client.judgments("films", policy=pb.JudgmentPolicy(targets=targets))
    assert (answer.judgment.target, answer.judgment.weight) == (0.25, 2)
    header, same = client.export_judgments("films", policy=pb.JudgmentPolicy(targets=targets))
    assert header.header.policy.changed
    assert same == answer
    with pytest.raises(errors.InvalidArgument, match="the known policies"):
        list(client.judgments("films", policy="likes"))
