"""The choice among runtimes, each imported only where it is chosen."""

import importlib.util
from pathlib import Path

from services.embedder.worker.frames import LoadSpec
from services.embedder.worker.runtime import Description, Model


def describe(wanted: str) -> Description:
    """Settle on a runtime: the one named, or with "auto" torch where there is a GPU for it, else OpenVINO.

    Raises ``ImportError`` if what is needed is not installed.
    """
    if wanted == "torch" or (wanted == "auto" and _gpu()):
        from services.embedder.worker import torch_runtime

        return Description("torch", torch_runtime.device(), torch_runtime.describe())
    from services.embedder.worker import openvino_runtime

    return Description("openvino", "CPU", openvino_runtime.describe())


def load(what: LoadSpec) -> Model:
    """Load a version. Raises ``BadVersion``."""
    if what.runtime == "torch":
        from services.embedder.worker.torch_runtime import TorchModel

        return TorchModel(what)
    from services.embedder.worker.openvino_runtime import OpenVinoModel

    return OpenVinoModel(what)


def _gpu() -> bool:
    # Importing torch takes seconds; without a device node there is nothing to find.
    if not Path("/dev/nvidiactl").exists() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
