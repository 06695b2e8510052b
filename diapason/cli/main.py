"""The `diapason` command."""

import sys

import typer
from rich.markup import escape

from diapason import errors
from diapason.cli.collection.command import collections_app
from diapason.cli.collection.moving import export, import_
from diapason.cli.collection.reindexing import reindex, rollback
from diapason.cli.content import index, status
from diapason.cli.datasets import datasets_app
from diapason.cli.demo.command import demo
from diapason.cli.evaluate.command import evaluate
from diapason.cli.evaluate.comparing import eval_compare
from diapason.cli.feedback.command import feedback_app
from diapason.cli.models import models_app
from diapason.cli.output import Failure, Problem, remarks
from diapason.cli.report import report
from diapason.cli.searching import search
from diapason.cli.training import runs, train
from diapason.cli.up import up

app = typer.Typer(
    help="Semantic search that tunes itself on what its users say. Begin with `diapason up` or `diapason demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (up, status, index, search, train, runs, report, reindex, rollback, export):
    app.command()(command)
app.command("import")(import_)
app.command()(demo)
app.command("eval")(evaluate)
app.command("eval-compare")(eval_compare)
app.add_typer(feedback_app, name="feedback")
app.add_typer(models_app, name="models")
app.add_typer(datasets_app, name="datasets")
app.add_typer(collections_app, name="collections")

# Errors that are the caller's to mend; all others end with status 1.
_MENDABLE = (
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.Conflict,
)


def main() -> None:
    """Run a command; a failure is one sentence on standard error, never a traceback."""
    try:
        app()
    except (Problem, *_MENDABLE) as problem:
        _say(str(problem))
        sys.exit(2)
    except errors.Unavailable as error:
        _say(f"{error}; is it running? `diapason status` shows, `diapason up` starts it")
        sys.exit(1)
    except (Failure, errors.DiapasonError) as failure:
        _say(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(sentence: str) -> None:
    remarks.print(f"diapason: {escape(sentence)}", soft_wrap=True)
