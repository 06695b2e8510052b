"""What is compared: the settings of collections that make the search service lay out a shard in another way."""

import hashlib
from importlib.metadata import version

from benchmarks.scale.corpus import DIMENSIONS
from services.search.adapters import edge_native as native
from services.search.domain.model import Quantization, Settings

# By the names of kinds of quantization, which also cross processes.
CONTESTANTS = ("none", "int8", "turbo", "binary")
LABELS = {"none": "plain", "int8": "int8", "turbo": "TurboQuant", "binary": "binary"}


def settings(contestant: str) -> Settings:
    """Of a collection: everything else is as it is by default."""
    return Settings(quantization=Quantization(contestant))


def key(contestant: str, count: int) -> str:
    """Names a shard by all that it depends on."""
    layout = repr(native.config(DIMENSIONS, settings(contestant)))
    text = f"{version('qdrant-edge-py')} {count} {layout}"
    return f"{count}-{contestant}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
