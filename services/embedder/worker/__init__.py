"""The inference process: one for each resident version. Knows nothing of gRPC."""

import sys

# OpenVINO reports its use to Google Analytics at import, and where there is no network that holds
# up the end of a process. It does without the package that does the reporting.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
