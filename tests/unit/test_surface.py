"""The public surface: what callers may rely on, so that a change of it is meant."""

from pathlib import Path

from typer.main import get_command

from diapason import errors
from diapason.cli.main import app
from diapason.client import Client

ROOT = Path(__file__).resolve().parents[2]


def test_the_client_has_these_calls() -> None:
    assert [name for name in vars(Client) if not name.startswith("_")] == [
        "close", "health",
        "search", "upsert", "documents", "delete", "create_collection", "collection", "collections", "routes",
        "thumbs", "submit", "summary", "judgments",
        "train", "run", "runs", "cancel_run", "watch_run", "trainer_status",
        "register_model", "models", "versions", "start_rollout", "rollout", "watch_rollout", "roll_back",
        "embed", "embed_stream", "rerank", "embedder_info",
    ]  # fmt: skip


def test_every_error_is_in_the_tree_that_the_module_draws() -> None:
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 9
    for name in kinds:
        assert name in (errors.__doc__ or "")


def test_every_command_has_json_and_an_example() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == {"up", "status", "index", "search", "feedback", "train", "runs", "models", "demo"}
    for name, command in commands.items():
        assert f"Example: diapason {name}" in command.help or name == "models", name
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for folder in ("diapason", "services", "tests", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if "_pb2" not in path.name and path.read_text() and not path.read_text().startswith('"""')
    ]
    assert silent == []
