"""The model card of a version: what it is, where it comes from, how to load it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from services.trainer.domain.model import PublishedVersion

_TEMPLATE = Path(__file__).with_name("card.md")


def render(version: PublishedVersion, repo: str, gate: Mapping[str, Any], first_stage_share: float = 0.0) -> str:
    """Markdown with the hub's front matter. ``gate`` is as the run stored it; empty for an imported version.

    ``first_stage_share`` is what a reranker leaves of the order to the encoder.

    It holds numbers and names of ours alone: nothing of anybody's texts, nor where a base was imported from.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        version=version,
        repo=repo,
        smaller=[size for size in version.dimensions if size < version.dimension],
        metrics=gate.get("metrics", ()),
        queries=gate.get("queries", 0),
        share=first_stage_share,
    )
