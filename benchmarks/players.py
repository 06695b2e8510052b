"""Long-living processes that each do one contestant's part, told by lines of JSON."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Part = Callable[..., Any]


class Player:
    """A process that plays the parts of a module."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, part: str, **given: Any) -> None:
        """Have it play a part; `end` waits for the result."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"part": part, **given}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """What came of the part that was begun."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contestant has ended: {self._process.args!r}")
        return json.loads(line)

    def play(self, part: str, **given: Any) -> Any:
        """Begin and end."""
        self.begin(part, **given)
        return self.end()

    def close(self) -> None:
        """Let it go."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def player(module: str, *arguments: str) -> Iterator[Player]:
    """A player for the time of the block."""
    playing = Player(module, *arguments)
    try:
        yield playing
    finally:
        playing.close()


def serve(parts: dict[str, Part]) -> None:
    """In the player's process: play what is asked until the other side has closed."""
    output, sys.stdout = sys.stdout, sys.stderr  # libraries print
    for line in sys.stdin:
        given = json.loads(line)
        output.write(json.dumps(parts[given.pop("part")](**given)) + "\n")
        output.flush()
