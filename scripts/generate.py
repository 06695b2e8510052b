"""Generate the Python contracts from protos/ into diapason/, or with --check compare them."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools

ROOT = Path(__file__).resolve().parents[1]
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def generate(target: Path) -> list[Path]:
    """Write the modules below ``target`` and return their paths relative to it."""
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{plugin}_out={target}" for plugin in ("python", "mypy", "grpc_python", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"-I{WELL_KNOWN}"]
    subprocess.run([*command, *outputs, *map(str, protos)], check=True)
    for folder in {path.parent for path in target.rglob("*_pb2.py")}:
        for package in (folder, folder.parent):
            (package / "__init__.py").touch()
    return sorted(path.relative_to(target) for path in target.rglob("*_pb2*.py*"))


def main() -> int:
    """Generate in place, or say what differs."""
    if "--check" not in sys.argv:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        checked_in = sorted(
            p.relative_to(ROOT) for p in (ROOT / "diapason").rglob("*_pb2*.py*") if "__pycache__" not in p.parts
        )
        stale = [
            str(path)
            for path in sorted({*fresh, *checked_in})
            if not (ROOT / path).exists()
            or not (Path(folder) / path).exists()
            or not filecmp.cmp(Path(folder) / path, ROOT / path, shallow=False)
        ]
    if stale:
        print("Differs from protos/ (run `make protos`):", *stale, sep="\n  ")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
