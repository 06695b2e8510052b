"""The public surface: what callers may rely on, so that a change of it is meant."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from diapason import errors
from diapason.cli.main import app
from diapason.client import Client

ROOT = Path(__file__).resolve().parents[2]


def test_the_client_has_these_calls() -> None:
    parts = [kind for kind in reversed(Client.__mro__) if kind is not object]
    assert [name for kind in parts for name in vars(kind) if not name.startswith("_")] == [
        "thumbs", "say", "submit", "feedback", "summary", "judgments", "export_judgments", "record_training",
        "erase_subject",
        "embed", "embed_stream", "rerank", "split", "embedder_info",
        "upload_dataset", "datasets", "dataset", "delete_dataset",
        "train", "run", "runs", "cancel_run", "watch_run", "trainer_status", "report",
        "register_model", "models", "versions", "push_version",
        "start_rollout", "rollout", "watch_rollout", "roll_back",
        "close", "health",
        "search", "search_many", "upsert", "documents", "count", "delete",
        "create_collection", "collection", "update_collection", "delete_collection", "collections", "routes",
        "estimate_reindex", "start_reindex", "reindex", "cancel_reindex", "switch_route", "roll_back_route",
        "export_collection", "import_collection",
    ]  # fmt: skip


def test_every_error_is_in_the_tree_that_the_module_draws() -> None:
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 9
    for name in kinds:
        assert name in (errors.__doc__ or "")


def test_every_command_has_json_and_an_example() -> None:
    commands = dict(commands_of(get_command(app)))
    assert set(commands) == {
        "up", "status", "index", "search", "train", "runs", "report", "models", "models register", "models push",
        "datasets", "datasets upload", "datasets show", "datasets delete",
        "feedback", "feedback up", "feedback down", "feedback withdraw", "feedback list", "feedback summary",
        "feedback export", "feedback erase",
        "collections", "collections show", "collections update", "collections delete",
        "export", "import", "reindex", "rollback", "eval", "eval-compare", "demo",
    }  # fmt: skip
    for name, command in commands.items():
        assert f"Example: diapason {name}" in command.help, name
        assert any("--json" in parameter.opts for parameter in command.params), name


def commands_of(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Commands with their names, groups before those in them."""
    for name, command in group.commands.items():
        yield before + name, command
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{before}{name} ")


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for folder in ("diapason", "services", "tests", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if "_pb2" not in path.name and path.read_text() and not path.read_text().startswith('"""')
    ]
    assert silent == []
