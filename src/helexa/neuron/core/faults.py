"""Which signs mean that a device itself has failed, and not the program that used it. Pure.

A device with a fault is quarantined until a prompt was answered on it; a program's error costs its own request only. So
what is not known as a fault is none: a classifier with the opposite default once poisoned healthy models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

APPLICATION_XIDS: Final = frozenset((13, 31, 43, 45, 68, 109))
"""Xids that a faulty program causes on a healthy GPU; the set that NVIDIA's own device plugin for Kubernetes skips."""

_XIDS: Final = {
    48: "double-bit ECC error",
    63: "a row of memory was remapped",
    64: "remapping a row of memory failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "too many single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
}

_FAULT: Final = re.compile(
    r"uncorrectable ECC error|CUDA_ERROR_ECC_UNCORRECTABLE"
    r"|an illegal memory access was encountered|CUDA_ERROR_ILLEGAL_ADDRESS|hipErrorIllegalAddress"
    r"|unspecified launch failure|CUDA_ERROR_LAUNCH_FAILED|hipErrorLaunchFailure"
    r"|an illegal instruction was encountered|misaligned address|hardware stack error|invalid program counter"
    r"|the launch timed out and was terminated|CUDA_ERROR_LAUNCH_TIMEOUT"
    r"|GPU is lost|fallen off the bus|device-side assert triggered"
    r"|Memory access fault by GPU node|HSA_STATUS_ERROR_(?:EXCEPTION|OUT_OF_RESOURCES)|GPU Hang"
    r"|DeviceLost|VK_ERROR_DEVICE_LOST"
    r"|Caused GPU (?:Timeout|Hang) Error|kIOGPUCommandBufferCallbackError(?:Timeout|Hang)",
    re.I,
)


def in_lines(lines: Iterable[str]) -> str | None:
    """The line that tells of a fault of the device, the last one if there are several; None when none does."""
    return next((line for line in reversed(tuple(lines)) if _FAULT.search(line)), None)


def of_xid(xid: int) -> str | None:
    """What an NVIDIA driver's Xid says about the device; None for one that a program caused."""
    if xid in APPLICATION_XIDS:
        return None
    return f"Xid {xid}: {_XIDS[xid]}" if xid in _XIDS else f"Xid {xid}"
