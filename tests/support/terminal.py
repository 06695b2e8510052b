"""`diapason` run as someone at a terminal would."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from diapason.cli import main as entry
from diapason.cli.output import console, remarks


@dataclass
class Command:
    """Runs `diapason` here, and says how it ended and what it printed."""

    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["diapason", *arguments])
        # They were made when nobody had said how wide the terminal is.
        self.monkeypatch.setattr(console, "width", 160)
        self.monkeypatch.setattr(remarks, "width", 500)
        with pytest.raises(SystemExit) as ended:
            entry.main()
        printed = self.capture.readouterr()
        code = ended.value.code
        assert "Traceback" not in printed.err
        return (code if isinstance(code, int) else 0), printed.out, " ".join(printed.err.split())


def signalled(number: signal.Signals, when: Callable[[], object], *arguments: str) -> tuple[int, str, str]:
    """Run `diapason` in a process of its own, which gets a signal once ``when`` has returned.

    Not in this one: an interrupt may come while gRPC holds a lock, which servers here would then wait for.
    """
    command = [sys.executable, "-c", "from diapason.cli.main import main; main()", *arguments]
    environment = os.environ | {"COLUMNS": "160"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        when()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, " ".join(err.split())
