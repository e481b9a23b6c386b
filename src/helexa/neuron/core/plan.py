"""The plan of a load: what preflight returns and the loader executes as it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from helexa.base.ids import SourceId

Format = Literal["gguf", "dense_safetensors", "mixed", "empty", "any"]
Warmth = Literal["memory", "disk", "cold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A device as the ledger sees it, in MiB: `total_mb` is what helexa may use at most, `reserved_mb` what its own
    models hold or have been promised, `foreign_mb` what other processes hold."""

    index: int
    kind: str
    name: str
    total_mb: int
    reserved_mb: int = 0
    foreign_mb: int = 0

    @property
    def free_mb(self) -> int:
        return max(0, self.total_mb - self.reserved_mb - self.foreign_mb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one device carries of a model (MiB). `scratch_mb` is the part that requests bring; `correction_mb` is what
    earlier loads were measured to take beyond the sum; `copies_mb`: see `footprint.ModelShape.copies`."""

    device: int
    weights_mb: int
    kv_mb: int = 0
    compute_mb: int = 0
    correction_mb: int = 0
    scratch_mb: int = 0
    copies_mb: tuple[int, ...] = ()

    @property
    def predicted_mb(self) -> int:
        """From the model's own metadata alone."""
        return self.weights_mb + self.kv_mb + self.compute_mb

    @property
    def needed_mb(self) -> int:
        return self.predicted_mb + self.correction_mb


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a source; `size_bytes` and `sha256` where the source tells them."""

    name: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Decided before any device work, download or handshake."""

    model_id: str
    harness: str
    format: Format
    source: SourceId | None
    files: tuple[RemoteFile, ...]
    shares: tuple[Share, ...]
    context: int
    slots: int
    warmth: Warmth
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    engine: str = ""
    """The harness and its version, as measurements are kept by."""
    reason: str = ""
    """Why it is this harness, where the asker left it open and there was a choice."""
    restore_s: float | None = None
    """How long the last load like this took, with the weights where they are now; None when it was never measured."""

    @property
    def devices(self) -> tuple[int, ...]:
        return tuple(share.device for share in self.shares)

    @property
    def weightless(self) -> bool:
        """An engine that loads any id without weights."""
        return self.format == "any"

    def part(self, share: Share) -> float:
        """A share's part of the layers (0..1)."""
        whole = sum(each.weights_mb + each.kv_mb for each in self.shares)
        return (share.weights_mb + share.kv_mb) / whole if whole else 1.0

    @property
    def download_bytes(self) -> int:
        """Bytes still to fetch; 0 when the weights are on disk already."""
        return sum(file.size_bytes or 0 for file in self.files) if self.warmth == "cold" else 0
