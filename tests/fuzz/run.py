"""Coverage-guided fuzzing of the properties: `make fuzz`, or `make fuzz ARGS="--seconds 600 sse head"`.

Needs atheris (requirements/fuzz.lock). What it finds is written to `crash-...` in the current directory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["helexa"]):
    from tests.fuzz.properties import PROPERTIES
    from tests.neuron.core.gguf_files import tiny_llama
    from tests.wire.shared import all_fixtures, encode

READ_REQUESTS = ("rewritten", "checked", "messages", "responses")


def fuzz(name: str, seconds: int) -> None:
    """Feed one property until it breaks or the time is over; ends the process."""
    with tempfile.TemporaryDirectory() as corpus:
        for client, _, body in all_fixtures() if name in READ_REQUESTS else ():
            Path(corpus, client).write_bytes(encode(body))
        if name == "gguf":
            Path(corpus, "tiny_llama").write_bytes(tiny_llama().removeprefix(b"GGUF"))
        limits = (f"-max_total_time={seconds}", "-timeout=10", "-max_len=16384")
        atheris.Setup([name, *limits, corpus], PROPERTIES[name])
        atheris.Fuzz()


def main() -> None:
    """Each property in a process of its own: the fuzzer ends its process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="for each property")
    parser.add_argument("--only", choices=sorted(PROPERTIES), help=argparse.SUPPRESS)
    parser.add_argument("properties", nargs="*", default=list(PROPERTIES))
    asked = parser.parse_args()
    if asked.only:
        fuzz(asked.only, asked.seconds)
    for name in asked.properties:
        print(f"== {name}: {PROPERTIES[name].__doc__}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.run", "--seconds", str(asked.seconds), "--only", name]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{name} does not hold")


if __name__ == "__main__":
    main()
