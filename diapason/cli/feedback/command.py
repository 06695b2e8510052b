"""`diapason feedback`: list, summary, export, erase."""

import json as json_module
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from diapason.cli.feedback.giving import down, up, withdraw
from diapason.cli.options import DEFAULT_COLLECTION, DEFAULT_DATA, AsJson, Collection, Data, connect
from diapason.cli.output import Problem, as_json, console, plain, remarks, table
from diapason.feedback.v1 import feedback_pb2 as pb

feedback_app = typer.Typer(no_args_is_help=False)
for _command in (up, down, withdraw):
    feedback_app.command()(_command)

AnyCollection = Annotated[str, typer.Option("--collection", "-c", help="Which collection; all if not given.")]
Tenant = Annotated[str | None, typer.Option(help="Whose application; all if not given.")]
Moment = typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"], help="A local date or time.")
_BARS = " ▁▂▃▄▅▆▇█"
_VALUED = (pb.SIGNAL_GRADE, pb.SIGNAL_DWELL)


@feedback_app.callback(invoke_without_command=True)
def feedback(context: typer.Context, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Say what helped; list, count, export and erase what was said.

    Example: diapason feedback up 1
    """
    if not context.invoked_subcommand:
        summary("", data, json)


@feedback_app.command("list")
def list_(
    collection: AnyCollection = "",
    actor: Annotated[str, typer.Option(help="Who said it.")] = "",
    tenant: Tenant = None,
    query: Annotated[str, typer.Option(help="About which query.")] = "",
    document: Annotated[str, typer.Option(help="About which document, by its id.")] = "",
    signal: Annotated[
        list[str] | None, typer.Option(help="As thumbs_up, grade, click or comment; repeat it for more.")
    ] = None,
    since: Annotated[datetime | None, Moment] = None,
    until: Annotated[datetime | None, Moment] = None,
    current: Annotated[bool, typer.Option("--current", help="Only opinions that stand.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Show what was said, newest first.

    Example: diapason feedback list -c movies --signal thumbs_down --since 2026-11-01
    """
    signals = [_signal(name) for name in signal or []]
    with connect(data) as client:
        answers = client.feedback(
            collection, actor, tenant, query, document, signals, _utc(since), _utc(until), current
        )
        found = list(islice(answers, limit))
    if json:
        as_json([plain(stored) for stored in found])
    else:
        columns = ["when", "collection", "signal", "document", "query", "actor", "reason"]
        table("", columns, [_row(stored) for stored in found])


@feedback_app.command()
def summary(collection: AnyCollection = "", data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Count searches, signals, queries and people.

    Example: diapason feedback summary -c movies
    """
    with connect(data) as client:
        found = client.summary(collection)
    if json:
        as_json(plain(found))
        return
    flagged = f", {found.flagged_actors} of them flagged for sending too much" if found.flagged_actors else ""
    console.print(
        f"{found.impressions:,} searches noted; feedback on {found.queries:,} queries by {found.actors:,}", end=""
    )
    console.print(f" named actors{flagged}")
    table("", ["signal", ">count"], [(_name(each.signal), f"{each.count:,}") for each in found.signals])
    counts = [sum(each.count for each in day.signals) for day in found.days]
    if any(counts):
        console.print(f"{found.days[0].date} {bars(counts)} {found.days[-1].date}, at most {max(counts):,} a day")


@feedback_app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A new file of JSON lines, one for each judgment.")],
    collection: Collection = DEFAULT_COLLECTION,
    policy: Annotated[str, typer.Option(help="How signals become judgments: thumbs, distances or clicks.")] = "thumbs",
    consumer: Annotated[str, typer.Option(help="Note under this name who has read it.")] = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Write what training would read into a file.

    Example: diapason feedback export judgments.jsonl -c movies --policy distances
    """
    if file.exists():
        raise Problem(f"{file} is there already; move it away, or name another file")
    if not file.absolute().parent.is_dir():
        raise Problem(f"there is no folder {file.absolute().parent}; make it first")
    partial, count, header = file.with_name(file.name + ".part"), 0, pb.ExportHeader()
    try:
        with connect(data) as client, partial.open("w", encoding="utf-8") as lines:
            for part in client.export_judgments(collection, policy=policy, consumer=consumer):
                if part.HasField("header"):
                    header = part.header
                    continue
                lines.write(json_module.dumps(plain(part.judgment), ensure_ascii=False) + "\n")
                count += 1
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    if json:
        as_json({"file": str(file), "judgments": count, **plain(header)})
    else:
        made = f"{header.policy.name} v{header.policy.version}"
        console.print(f"{count:,} judgments of {collection!r} by policy {made}, in {file}")


@feedback_app.command()
def erase(
    actor: Annotated[str, typer.Argument(help="The pseudonymous id of the person.")],
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Delete all that a person said and was shown, and say which models had learned from it.

    Example: diapason feedback erase u-4711
    """
    if not yes and not _agreed(f"Delete all feedback and searches of {actor!r}?"):
        raise Problem("nothing was deleted; --yes deletes without asking")
    with connect(data) as client:
        found = client.erase_subject(actor, tenant)
    if json:
        as_json(plain(found))
        return
    events = sum(each.count for each in found.signals)
    said = ", ".join(f"{each.count:,} {_name(each.signal)}" for each in found.signals)
    console.print(
        f"deleted: {events:,} pieces of feedback{f' ({said})' if said else ''}, {found.impressions:,} searches"
    )
    if found.consumers:
        rows = [
            (each.consumer, ", ".join(f"{v.model} version {v.number}" for v in each.versions) or "none that is known")
            for each in found.consumers
        ]
        table("Had read some of it", ["consumer", "versions trained on it"], rows)


def bars(counts: Sequence[int]) -> str:
    """A bar of one character for each count; the highest is full, and what is not zero shows."""
    most = max(counts) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


def _row(stored: pb.StoredFeedback) -> tuple[object, ...]:
    said = stored.feedback
    when = said.time.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    value = f" {said.value:g}" if said.signal in _VALUED else ""
    return when, stored.collection, _name(said.signal) + value, said.document_id, stored.query, said.actor, said.reason


def _name(signal: pb.Signal.ValueType) -> str:
    return pb.Signal.Name(signal).removeprefix("SIGNAL_").lower().replace("_", " ")


def _signal(name: str) -> pb.Signal.ValueType:
    known = [each for each in pb.Signal.keys() if each != "SIGNAL_UNSPECIFIED"]  # noqa: SIM118 - no mapping
    wanted = f"SIGNAL_{name.upper().replace('-', '_').replace(' ', '_')}"
    if wanted not in known:
        names = ", ".join(each.removeprefix("SIGNAL_").lower() for each in known)
        raise Problem(f"--signal {name!r}: give one of {names}")
    return pb.Signal.Value(wanted)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or nobody is there to be asked
        remarks.print()
        return False
