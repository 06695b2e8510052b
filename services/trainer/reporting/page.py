"""The report as one HTML page that needs nothing else: no script, no network, no other file."""

import threading
from pathlib import Path

import jinja2

from services.trainer.reporting import plots
from services.trainer.reporting.report import Report, label

_TEMPLATE = Path(__file__).with_name("page.html")
_drawing = threading.Lock()


def render(report: Report) -> bytes:
    """The page, UTF-8. Queries and documents are people's words: all that is not ours is escaped.

    Takes a second or two; one at a time, since matplotlib is not made for more.
    """
    with _drawing:
        drawn = plots.draw(report)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"), globals={"label": label})
    shown = {name: drawn.get(name, "") for name in plots.NAMES}
    return template.render(report=report, plots=shown).encode("utf-8", "replace")
