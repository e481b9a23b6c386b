"""The programs' first lines: an interrupt is an exit status already while all the rest is imported."""

from __future__ import annotations

import sys


def cortex() -> None:
    """`cortex`."""
    try:
        from helexa.cli.cortex import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)


def neuron() -> None:
    """`neuron`."""
    try:
        from helexa.cli.neuron import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)
