"""The part of a run that needs torch, in a process of its own: `python -m services.trainer.process FOLDER`.

It reads `spec.json` in the folder, says how far it is in lines of JSON on standard output, and
leaves `candidate/` and `result.json`. It speaks to no service and to no database.
"""

import sys

# OpenVINO reports its use to Google Analytics at import and at every conversion, and where there is no network
# that holds up the end of a process for seconds each time. It does without the package that does the reporting.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# In the job's environment: the worker's process id.
WORKER_PID = "DIAPASON_WORKER_PID"
