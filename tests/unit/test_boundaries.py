"""Each extra alone is enough to import its service, and brings nothing that its image must not contain."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODULES = {
    "embedder": ["services.embedder.__main__", "services.embedder.worker.openvino_runtime"],
    "embedder-gpu": ["services.embedder.__main__", "services.embedder.worker.torch_runtime"],
    "search": ["services.search.__main__"],
    "feedback": ["services.feedback.__main__"],
    "trainer": [
        "services.trainer.__main__",
        "services.trainer.reporting.page",
        "services.trainer.worker",
        "services.trainer.process.training",
    ],
    "": ["diapason.client", "diapason.cli.main"],
}
NEVER = {
    "embedder": {"torch", "sqlalchemy", "celery", "qdrant-client", "qdrant-edge-py"},
    "embedder-gpu": {"openvino", "sqlalchemy", "celery", "qdrant-client", "qdrant-edge-py"},
    "search": {"torch", "openvino", "celery"},
    "feedback": {"torch", "openvino", "celery", "qdrant-client", "qdrant-edge-py"},
    "trainer": {"qdrant-client", "qdrant-edge-py"},
    "": {"torch", "openvino", "celery", "qdrant-client", "qdrant-edge-py", "sqlalchemy", "structlog"},
}

# Some libraries ask what is installed instead of trying to import it.
_IMPORT = """
import sys, importlib, importlib.machinery, importlib.metadata
blocked, hidden = set(sys.argv[1].split(",")), set(sys.argv[2].split(","))
from_name = importlib.metadata.Distribution.from_name
def distribution(name):
    if name.lower().replace("_", "-") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(name)
importlib.metadata.Distribution.from_name = staticmethod(distribution)
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in blocked else find(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
for module in sys.argv[3:]:
    importlib.import_module(module)
"""


def closure(extra: str) -> set[str]:
    """The distributions that `pip install diapason[extra]` brings, by what is installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [("diapason", extra)]
    while waiting:
        name, wanted = item = waiting.pop()
        if item in found:
            continue
        found.add(item)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in requirements:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                child = canonicalize_name(requirement.name)
                waiting += [(child, each) for each in {"", *requirement.extras}]
    return {name for name, _ in found}


@pytest.mark.parametrize("extra", MODULES)
def test_an_extra_alone_imports_its_service(extra: str) -> None:
    allowed = closure(extra)
    owners = {
        module: {canonicalize_name(owner) for owner in distributions}
        for module, distributions in metadata.packages_distributions().items()
    }
    blocked = [module for module, distributions in owners.items() if not distributions & allowed]
    assert "pytest" in blocked
    hidden = {owner for module in blocked for owner in owners[module]} - allowed
    command = [sys.executable, "-c", _IMPORT, ",".join(blocked), ",".join(hidden), *MODULES[extra]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("extra", NEVER)
def test_an_extra_brings_nothing_that_its_image_must_not_contain(extra: str) -> None:
    assert not closure(extra) & NEVER[extra]
