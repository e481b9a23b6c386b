"""What counts as a fault of the device, and what does not."""

from __future__ import annotations

import pytest

from helexa.neuron.core import faults


@pytest.mark.parametrize(
    "line",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: uncorrectable ECC error encountered",
        "ggml_cuda_compute_forward: MUL_MAT failed: unspecified launch failure",
        "Unable to determine the device handle for GPU0: GPU is lost.  Reboot the system to recover this GPU",
        "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus.",
        "Memory access fault by GPU node-1 (Agent handle: 0x55) on address 0x7f. Reason: Page not present",
        "ROCm error: hipErrorIllegalAddress",
        "ggml_vulkan: vk::Queue::submit: ErrorDeviceLost",
        "error: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
    ],
)
def test_a_drivers_words_for_a_lost_device_are_known(line: str) -> None:
    assert faults.in_lines(["loading", line, "Aborted"]) == line


@pytest.mark.parametrize(
    "line",
    [
        "CUDA error: out of memory",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 1024.00 MiB on device 0: cudaMalloc failed",
        "RuntimeError: shape '[1, 2]' is invalid for input of size 3",
        "ValueError: unknown option",
        "Segmentation fault",
        "",
    ],
)
def test_what_is_not_known_as_a_fault_is_none(line: str) -> None:
    assert faults.in_lines([line]) is None


@pytest.mark.parametrize("xid", sorted(faults.APPLICATION_XIDS))
def test_an_xid_that_a_program_causes_is_not_held_against_the_gpu(xid: int) -> None:
    assert faults.of_xid(xid) is None


@pytest.mark.parametrize(("xid", "words"), [(79, "Xid 79: the GPU has fallen off the bus"), (999, "Xid 999")])
def test_any_other_xid_is_a_fault_and_is_named(xid: int, words: str) -> None:
    assert faults.of_xid(xid) == words
