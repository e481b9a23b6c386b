"""How many files and connections this process may have open."""

from __future__ import annotations

import contextlib
import sys

MOST = 1 << 20


def allow_many() -> None:
    """Raise the soft limit to the hard one: a request under way is two connections, and the soft limit is 1,024 in most
    shells and services, kept low for programs that use select()."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    with contextlib.suppress(OSError, ValueError):  # macOS says infinity and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
