"""`diapason datasets`: list, upload, show, delete."""

from collections.abc import Iterator
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from diapason.cli.options import DEFAULT_DATA, AsJson, Data, connect
from diapason.cli.output import Problem, as_json, console, counting_bar, plain, remarks, table
from diapason.datasets.checking import FORMS, BadData, name_of
from diapason.datasets.files import Source
from diapason.trainer.v1 import dataset_pb2 as pb

datasets_app = typer.Typer(no_args_is_help=False)

Name = Annotated[str, typer.Argument(help="Name of the dataset.")]


class Form(StrEnum):
    """Forms as people write them."""

    JUDGMENTS = "judgments"
    PAIRS = "pairs"
    TRIPLETS = "triplets"
    SCORED_PAIRS = "scored-pairs"
    CLASSES = "classes"
    EVALUATION = "evaluation"


_FORMS = {name_of(form): form for form in FORMS}


@datasets_app.callback(invoke_without_command=True)
def datasets(context: typer.Context, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """List datasets to train on, upload, show, delete them.

    Example: diapason datasets
    """
    if context.invoked_subcommand:
        return
    with connect(data) as client:
        found = client.datasets()
    if json:
        as_json([plain(one) for one in found])
        return
    rows = [
        (one.name, name_of(one.form), f"{one.rows:,}", f"{one.queries:,}", _moment(one), one.digest[:12])
        for one in found
    ]
    table("Datasets", ["name", "form", ">rows", ">queries", "uploaded", "digest"], rows)


@datasets_app.command()
def upload(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A .jsonl or .csv file, a `datasets` folder, a folder as BEIR's.")],
    form: Annotated[Form | None, typer.Option(help="What the rows are; guessed by the columns if not given.")] = None,
    split: Annotated[str, typer.Option(help="Of a folder; train if not given, of an evaluation test.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a dataset of that name.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Check a file line by line and store it, whole or not at all.

    Example: diapason datasets upload questions pairs.jsonl
    """
    try:
        source = Source.open(file, _FORMS[form] if form else pb.DATASET_FORM_UNSPECIFIED, split)
        if not form:
            remarks.print(f"{file} is read as {name_of(source.form)}; --form says otherwise", markup=False)
        with connect(data) as client, counting_bar() as bar:
            if not replace and any(one.name == name for one in client.datasets()):
                raise Problem(f"there is a dataset {name!r} already; choose another name, or say --replace")
            made = client.upload_dataset(name, source.form, _sent(source, _checked(source, bar), bar), replace)
    except BadData as error:
        raise Problem(_said(error)) from error
    except OSError as error:
        raise Problem(f"{file} can't be read: {error.strerror or error}") from error
    if source.unread:
        remarks.print(f"columns that were not read: {', '.join(sorted(source.unread))}", markup=False)
    as_json(plain(made)) if json else _print(made)


@datasets_app.command()
def show(name: Name, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Show one dataset.

    Example: diapason datasets show questions
    """
    with connect(data) as client:
        found = client.dataset(name)
    as_json(plain(found)) if json else _print(found)


@datasets_app.command()
def delete(name: Name, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Delete a dataset; models that were trained on it stay.

    Example: diapason datasets delete questions
    """
    with connect(data) as client:
        client.delete_dataset(name)
    as_json({"deleted": name}) if json else console.print(f"dataset {name!r} is deleted")


def _checked(source: Source, bar: Progress) -> int:
    """How many rows there are, now that all were looked at. Raises ``BadData``."""
    task = bar.add_task("checking", total=None)
    count = 0
    for summary in source.checked():
        if summary is None:  # not yet at the end
            count += 1
            bar.update(task, completed=count)
    bar.update(task, total=count)
    return count


def _sent(source: Source, count: int, bar: Progress) -> Iterator[pb.DatasetRow]:
    task = bar.add_task("sending", total=count)
    for row in source.good_rows():
        yield row
        bar.update(task, advance=1)
    bar.update(task, description="storing")


def _said(error: BadData) -> str:
    """A line for each bad row, below one that counts them."""
    if not error.problems:
        return str(error)
    rows = f"{error.total:,} bad row{'' if error.total == 1 else 's'}, and nothing was stored"
    more = [f"… and {error.total - len(error.problems):,} more"] if error.total > len(error.problems) else []
    return "\n  ".join([f"{rows}:", *map(str, error.problems), *more])


def _print(one: pb.Dataset) -> None:
    counts = [f"{one.rows:,} rows", f"{one.queries:,} queries ({one.rankable_queries:,} with a relevant document)"]
    if one.form == pb.DATASET_FORM_CLASSES:
        counts = [f"{one.rows:,} texts", f"{one.classes:,} classes of two texts or more"]
    if one.form == pb.DATASET_FORM_EVALUATION:
        counts.append(f"{one.documents:,} documents")
    console.print(f"dataset {one.name!r}, {name_of(one.form)}: {', '.join(counts)}")
    for remark in one.remarks:
        console.print(f"  {remark}")


def _moment(one: pb.Dataset) -> str:
    return one.created_time.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
