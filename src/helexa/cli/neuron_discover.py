"""`neuron discover`: what this host has to offer, as a neuron would publish it."""

from __future__ import annotations

from helexa.base.units import human_mib
from helexa.cli.link import AsJson
from helexa.cli.localhost import ConfigFile, look
from helexa.cli.say import as_json, table


def discover(*, config: ConfigFile = None, json: AsJson = False) -> None:
    """Show this host's devices and engines. No daemon is needed; what a driver does not tell is left out."""
    host = look(config)
    found, health = host.view.discovery(), host.view.readings()
    if json:
        as_json({"discovery": found, "devices": health})
        return
    print(f"{found.hostname}: {found.os}, kernel {found.kernel}")
    if found.driver_version:
        print(f"driver {found.driver_version}" + (f", CUDA {found.cuda_version}" if found.cuda_version else ""))
    if found.cuda_unavailable_reason:
        print(f"the NVIDIA driver cannot be used: {found.cuda_unavailable_reason}")
    used = {reading.index: reading for reading in health}
    rows = [
        [str(d.index), d.kind, d.name, human_mib(d.vram_total_mb), human_mib(used[d.index].vram_free_mb)]
        for d in found.devices
    ]
    table("", ("DEVICE", "KIND", "NAME", "FOR MODELS", "FREE"), rows)
    read = [f"{name} ({', '.join(formats)})" for name, formats in found.formats.items()]
    print("engines:", ", ".join(read) or 'none; pip install "helexa[llama]"')
