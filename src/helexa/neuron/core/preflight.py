"""Can this model be loaded here, and how? Answered from one listing and the head of one file, before any device work.

Two steps, because the second needs bytes that only the first knows how to name: `select` picks engine, format and files
from the listing; the shell reads the head of the first file; `settle` picks device, context and slots. What comes out
is the plan that the loader executes as it stands, or a `Refused` whose `kind` is one of KINDS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from helexa.base.errors import Refused
from helexa.base.ids import SourceId, canonical, parse_source
from helexa.base.units import MIB, human_bytes, human_mib
from helexa.neuron.core.choice import Candidate, candidates, flaw
from helexa.neuron.core.fit import DeviceSum, DoesNotFit, Measured, Wish, fit
from helexa.neuron.core.footprint import CHECKPOINTS, UBATCH, ModelShape, Settings
from helexa.neuron.core.harnesses import HarnessInfo
from helexa.neuron.core.listing import (
    Listing,
    Weights,
    classify,
    dense_files,
    gguf_sets,
    nearest,
    pick,
    projector,
    side_files,
)
from helexa.neuron.core.measured import Circumstances, Measurements, circumstances, options_text
from helexa.neuron.core.options import read
from helexa.neuron.core.plan import DeviceState, Format, LoadPlan, RemoteFile, Warmth
from helexa.neuron.harness import BadOption
from helexa.wire.control import ModelSpec

KINDS: Final = (
    "repo_fetch_failed", "empty_repo", "bad_weights", "tp_requires_safetensors", "quant_not_found",
    "unsupported_architecture", "does_not_fit", "disk_full", "engine_missing", "device_not_found", "invalid_option",
)  # fmt: skip
DISK_MARGIN: Final = 512 * 1024 * 1024
"""Bytes of the disk that a download leaves free."""
WHOLE_OPTIONS: Final = ("embeddings", "rerank", "mmproj")
"""With one of these a text or an image has to fit into one step."""
WEIGHTLESS_MB: Final = 64
"""Memory that a model without weights is said to take, when its options do not tell."""


def refusal(kind: str, model_id: str, detail: str, **facts: object) -> Refused:
    """A refusal as the wire shows it: `kind`, `model_id`, then `facts` (`suggestion` among them where there is one)."""
    fields: dict[str, Any] = {"kind": kind, "model_id": model_id, **facts}
    return Refused(detail, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What `select` decided. `harnesses` can all read the format here, the preferred one first; `architecture` is not
    known yet. `options` are the asker's over the harness's defaults, less what the plan itself carries."""

    model_id: str
    harnesses: tuple[HarnessInfo, ...]
    format: Format
    source: SourceId | None
    files: tuple[RemoteFile, ...]
    spec: ModelSpec
    warmth: Warmth = "cold"
    """Where the selected files are; the shell looks and fills it in."""
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @property
    def weight_files(self) -> tuple[RemoteFile, ...]:
        return tuple(f for f in self.files if f.name.lower().endswith((".gguf", ".safetensors")))

    def options(self, harness: HarnessInfo) -> dict[str, Any]:
        return {**self.defaults.get(harness.name, {}), **self.spec.options}


def source_of(spec: ModelSpec) -> SourceId:
    """Where the weights of `spec` come from: its `source` (a whole id, or only a scheme), else its own id.

    Raises InvalidRequest for an id that is none.
    """
    if spec.source is None:
        return parse_source(spec.model_id)
    bare_scheme = ":" not in spec.source and "/" not in spec.source
    return parse_source(f"{spec.source}:{spec.model_id}" if bare_scheme else spec.source)


def wants_no_weights(spec: ModelSpec, harnesses: Mapping[str, HarnessInfo]) -> bool:
    """Whether the engine that was asked for loads any id without looking at a source."""
    asked = harnesses.get(spec.harness or "")
    return asked is not None and asked.weightless


def engine_refusal(
    spec: ModelSpec, devices: Sequence[DeviceState], harnesses: Mapping[str, HarnessInfo]
) -> Refused | None:
    """What can be refused before any source is looked at: a device or an engine that is not here."""
    model_id = canonical(spec.model_id)
    usable = _usable(spec, model_id, devices)
    found = usable if isinstance(usable, Refused) else _candidates(spec, model_id, usable, harnesses)
    return found if isinstance(found, Refused) else None


def select(
    spec: ModelSpec,
    listing: Listing | None,
    devices: Sequence[DeviceState],
    harnesses: Mapping[str, HarnessInfo],
    defaults: Mapping[str, Mapping[str, Any]],
) -> Selection | Refused:
    """Engine, format and files. `listing` is None only for an engine that needs no weights."""
    model_id = canonical(spec.model_id)
    usable = _usable(spec, model_id, devices)
    if isinstance(usable, Refused):
        return usable
    candidates = _candidates(spec, model_id, usable, harnesses)
    if isinstance(candidates, Refused):
        return candidates
    if listing is None:
        return Selection(
            model_id=model_id, harnesses=candidates, format="any", source=None, files=(), warmth="memory", spec=spec,
            defaults=defaults,
        )  # fmt: skip
    chosen = _format(spec, model_id, listing, candidates, harnesses)
    if isinstance(chosen, Refused):
        return chosen
    files = _files(spec, model_id, listing, chosen)
    if isinstance(files, Refused):
        return files
    return Selection(
        model_id=model_id,
        harnesses=tuple(each for each in candidates if each.reads(chosen)),
        format=chosen,
        source=listing.source,
        files=files,
        spec=spec,
        defaults=defaults,
    )


def _candidates(
    spec: ModelSpec, model_id: str, devices: Sequence[DeviceState], harnesses: Mapping[str, HarnessInfo]
) -> tuple[HarnessInfo, ...] | Refused:
    """The engines to consider, in their own order: the one that was asked for, or every installed one that runs on a
    device here and reads real weights."""
    kinds = {device.kind for device in devices}
    if spec.harness is not None:
        return _asked(spec.harness, model_id, harnesses)
    found = [h for h in harnesses.values() if h.installed and not h.weightless and h.runs_on(kinds)]
    if found:
        return tuple(found)
    fitting = [h for h in harnesses.values() if not h.weightless and h.runs_on(kinds)]
    return _engine_missing(model_id, "no engine is installed that runs here", fitting)


def _asked(name: str, model_id: str, harnesses: Mapping[str, HarnessInfo]) -> tuple[HarnessInfo, ...] | Refused:
    found = harnesses.get(name)
    if found is None:
        hint = f"harnesses here: {', '.join(sorted(harnesses)) or 'none'}"
        return refusal("engine_missing", model_id, f"there is no harness `{name}`; {hint}", extra=None, suggestion=hint)
    if not found.installed:
        return _engine_missing(model_id, f"the engine `{name}` is not installed", [found])
    return (found,)


def _engine_missing(model_id: str, what: str, would_do: Sequence[HarnessInfo]) -> Refused:
    extras = sorted({h.extra for h in would_do if h.extra and not h.installed})
    hint = f'pip install "helexa[{extras[0]}]"' if extras else "install an engine that reads this model"
    return refusal("engine_missing", model_id, f"{what}; {hint}", extra=extras[0] if extras else None, suggestion=hint)


def _format(
    spec: ModelSpec,
    model_id: str,
    listing: Listing,
    candidates: Sequence[HarnessInfo],
    harnesses: Mapping[str, HarnessInfo],
) -> Format | Refused:
    """Which of the held formats is loaded: tensor parallelism means safetensors, a quantisation means GGUF, otherwise
    the first engine that reads one of them decides."""
    held = classify(listing.files)
    if held == "empty":
        detail = f"{listing.source} holds no GGUF or safetensors weights"
        return refusal("empty_repo", model_id, detail, suggestion="check the name, or pull a repository with weights")
    if held == "gguf" and (spec.tensor_parallel or 1) > 1:
        return _tp_refused(spec, model_id, listing)
    held_formats: tuple[Format, ...] = ("gguf", "dense_safetensors") if held == "mixed" else (held,)
    if held == "mixed" and (spec.tensor_parallel or 1) > 1:
        held_formats = ("dense_safetensors",)
    elif held == "mixed" and spec.quant:
        held_formats = ("gguf",)
    for harness in candidates:
        for each in held_formats:
            if harness.reads(each):
                return each
    readers = [h for h in harnesses.values() if any(h.reads(each) for each in held_formats)]
    names = ", ".join(h.name for h in candidates)
    return _engine_missing(model_id, f"{names} cannot read {' or '.join(held_formats)}", readers)


def _tp_refused(spec: ModelSpec, model_id: str, listing: Listing) -> Refused:
    quants = [each.label for each in gguf_sets(listing.files)]
    hint = "leave tensor_parallel out, or name the repository with this model's safetensors"
    return refusal(
        "tp_requires_safetensors",
        model_id,
        f"tensor parallelism over {spec.tensor_parallel} devices needs safetensors; there is only GGUF: {hint}",
        tp_size=spec.tensor_parallel,
        gguf_quants=quants,
        suggestion=hint,
    )


def _files(spec: ModelSpec, model_id: str, listing: Listing, chosen: Format) -> tuple[RemoteFile, ...] | Refused:
    if chosen == "dense_safetensors":
        if spec.quant:
            return _quant_refused(spec.quant, model_id, ())
        return (*dense_files(listing.files), *side_files(listing.files))
    sets = gguf_sets(listing.files)
    found = pick(sets, spec.quant)
    if found is None:
        return _quant_refused(spec.quant or "", model_id, sets)
    if found.missing:
        detail = f"{found.label}: shards {', '.join(map(str, found.missing[:8]))} are missing"
        hint = "name another quantisation, or mend the repository"
        return refusal("repo_fetch_failed", model_id, detail, cause=detail, transient=False, suggestion=hint)
    eyes = projector(listing.files)
    return (*found.files, eyes) if eyes else found.files


def _quant_refused(wanted: str, model_id: str, sets: Sequence[Weights]) -> Refused:
    available = [each.label for each in sets]
    near = nearest(wanted, available)
    hint = f'quant = "{near}"' if near else "leave quant out: these weights are not quantised"
    held = f"there are {', '.join(available)}" if available else "there is no GGUF"
    return refusal(
        "quant_not_found",
        model_id,
        f"no quantisation `{wanted}`; {held}; try {hint}" if near else f"no quantisation `{wanted}`; {held}; {hint}",
        requested=wanted,
        available=available,
        nearest=near,
        suggestion=hint,
    )


def settle(
    selection: Selection,
    shape: ModelShape | None,
    devices: Sequence[DeviceState],
    disk_free: int | None,
    measurements: Measurements | None = None,
) -> LoadPlan | Refused:
    """Devices, context and slots. `shape` None means that nothing is known but the files' sizes; `disk_free` is what
    the cache's disk has left (bytes), None when nobody knows; `measurements` are those of earlier loads."""
    usable = _usable(selection.spec, selection.model_id, devices)
    if isinstance(usable, Refused):
        return usable
    shape = shape or _unread(selection)
    full = _disk(selection, disk_free)
    if full is not None:
        return full
    refused: Refused | None = None
    for candidate in _choices(selection, shape, usable):
        plan = _planned(selection, shape, candidate, usable, measurements or Measurements())
        if isinstance(plan, LoadPlan):
            return plan
        refused = plan
    return refused or _unsupported(selection, shape)


def _choices(selection: Selection, shape: ModelShape, devices: Sequence[DeviceState]) -> Iterable[Candidate]:
    """The engines that can load it, the best first; one that was asked for is the only one."""
    if selection.format == "any":
        return [Candidate(harness=selection.harnesses[0], reason="")]
    slots = selection.spec.options.get("slots")
    files = len(selection.files)
    if selection.spec.harness is not None:
        return [Candidate(harness=h, reason="") for h in selection.harnesses if flaw(h, shape, files, ()) is None]
    return candidates(
        selection.harnesses,
        shape,
        kinds={device.kind for device in devices},
        files=files,
        options=selection.spec.options,
        slots=slots if isinstance(slots, int) else None,
    )


def _planned(
    selection: Selection,
    shape: ModelShape,
    candidate: Candidate,
    devices: Sequence[DeviceState],
    measurements: Measurements,
) -> LoadPlan | Refused:
    """The plan with one engine."""
    harness = candidate.harness
    try:
        options = read(selection.options(harness), harness.options)
    except BadOption as error:
        return _bad_option(selection, error.name, error.problem)
    wish = _wish(selection, options, harness)
    if isinstance(wish, Refused):
        return wish
    here = [device for device in devices if device.kind in harness.device_kinds]
    if not here:
        return _wrong_kind(selection, harness, devices)
    held = _with_projector(_as_held(shape, harness), selection)
    measured = _measured(selection, harness, options, measurements)
    fitted = fit(held, wish, here, measured=measured, splits=harness.splits)
    if isinstance(fitted, DoesNotFit):
        return _does_not_fit(selection, fitted)
    plan = LoadPlan(
        model_id=selection.model_id,
        harness=harness.name,
        format=selection.format,
        source=selection.source,
        files=selection.files,
        shares=fitted.shares,
        context=fitted.settings.context,
        slots=fitted.settings.slots,
        warmth=selection.warmth,
        options={key: value for key, value in options.items() if key != "slots"},
        engine=harness.engine,
        reason=candidate.reason,
    )
    return replace(plan, restore_s=_restore_s(plan, here, measurements))


def _restore_s(plan: LoadPlan, devices: Sequence[DeviceState], measurements: Measurements) -> float | None:
    """What was measured is of loads on one device."""
    kinds = [device.kind for device in devices if device.index in plan.devices]
    return measurements.load_s(circumstances(plan, kinds[0]), plan.warmth) if len(kinds) == 1 else None


def _as_held(shape: ModelShape, harness: HarnessInfo) -> ModelShape:
    """The shape with the weights as large as the engine keeps them."""
    if harness.needs is None:
        return shape
    return replace(shape, weight_bytes=int(shape.weight_bytes * harness.needs.weights_ratio), host_bytes=0, copies=())


def _measured(
    selection: Selection, harness: HarnessInfo, options: Mapping[str, Any], measurements: Measurements
) -> Measured:
    """What this selection was measured to take, by settings and kind of device; see `measured.circumstances`."""

    def needed_mb(settings: Settings, kind: str) -> int | None:
        return measurements.needed_mb(
            Circumstances(
                model_id=selection.model_id,
                weights=selection.files[0].name if selection.files else "",
                weight_bytes=sum(file.size_bytes or 0 for file in selection.files),
                context=settings.context,
                slots=settings.slots,
                options=options_text(options),
                engine=harness.engine,
                device_kind=kind,
            )
        )

    return needed_mb


def preflight(
    spec: ModelSpec,
    listing: Listing | None,
    shape: ModelShape | None,
    devices: Sequence[DeviceState],
    harnesses: Mapping[str, HarnessInfo],
    *,
    warmth: Warmth = "cold",
    disk_free: int | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> LoadPlan | Refused:
    """Both steps at once, for a caller that has the shape already."""
    selection = select(spec, listing, devices, harnesses, defaults or {})
    if isinstance(selection, Refused):
        return selection
    return settle(replace(selection, warmth=warmth) if listing else selection, shape, devices, disk_free)


def _usable(spec: ModelSpec, model_id: str, devices: Sequence[DeviceState]) -> Sequence[DeviceState] | Refused:
    wanted = spec.devices
    here = [device.index for device in devices]
    unknown = [index for index in wanted or () if index not in here]
    if unknown or not devices:
        detail = f"there is no device {unknown[0]}" if unknown else "this host has no device to load on"
        return refusal(
            "device_not_found", model_id, f"{detail}; devices here: {here}", available=here,
            suggestion="leave devices out",
        )  # fmt: skip
    return [device for device in devices if not wanted or device.index in wanted]


def _wrong_kind(selection: Selection, harness: HarnessInfo, devices: Iterable[DeviceState]) -> Refused:
    kinds = ", ".join(sorted({device.kind for device in devices}))
    detail = f"{harness.name} does not run on {kinds}, only on {', '.join(harness.device_kinds)}"
    return refusal("engine_missing", selection.model_id, detail, extra=None, suggestion="choose another harness")


def _unread(selection: Selection) -> ModelShape:
    """The shape of a model whose head could not be read: a declared size, or the files' and a tenth."""
    if selection.format == "any":
        declared = selection.options(selection.harnesses[0]).get("memory_mb", WEIGHTLESS_MB)
        known = int(declared) if isinstance(declared, int | float) and declared >= 0 else WEIGHTLESS_MB
        return ModelShape(architecture="", trained_context=8192, weight_bytes=0, known_mb=known)
    sizes = sum(file.size_bytes or 0 for file in selection.weight_files)
    return ModelShape(architecture="", trained_context=8192, weight_bytes=sizes + sizes // 10)


def _with_projector(shape: ModelShape, selection: Selection) -> ModelShape:
    eyes = sum(f.size_bytes or 0 for f in _projectors(selection))
    return replace(shape, weight_bytes=shape.weight_bytes + eyes) if eyes else shape


def _projectors(selection: Selection) -> list[RemoteFile]:
    return [f for f in selection.files if "mmproj" in f.name.lower()]


def _unsupported(selection: Selection, shape: ModelShape) -> Refused:
    architecture, files = shape.architecture, len(selection.files)
    supported = sorted({name for h in selection.harnesses for name in h.architectures or ()})
    why = [f"{h.name} {flaw(h, shape, files, ())}" for h in selection.harnesses]
    detail = f"{'; '.join(why)}; supported architectures: {', '.join(supported)}"
    return refusal(
        "unsupported_architecture", selection.model_id, detail, architecture=architecture, supported=supported,
        suggestion="use another engine, or a model of a supported architecture",
    )  # fmt: skip


def _wish(selection: Selection, options: Mapping[str, Any], harness: HarnessInfo) -> Wish | Refused:
    context, parallel = selection.spec.context, selection.spec.tensor_parallel
    if parallel is not None and parallel < 1:
        return _bad_option(selection, "tensor_parallel", "must be at least 1")
    if isinstance(context, int) and context < 1:
        return _bad_option(selection, "context", 'must be at least 1, or "max"')
    kept = harness.needs.kv_type.get(str(options.get("kv_cache", "u8")), "f16") if harness.needs else "f16"
    types = [str(options.get(key, kept)) for key in ("cache_type_k", "cache_type_v")]
    flash = options.get("flash_attn")
    base = Settings(
        context=0,
        slots=0,
        type_k=types[0],
        type_v=types[1],
        ubatch=options.get("ubatch", UBATCH),
        batch=options.get("batch"),
        whole=any(options.get(name) for name in WHOLE_OPTIONS) or bool(_projectors(selection)),
        checkpoints=options.get("checkpoints", CHECKPOINTS),
        host_cache_bytes=options.get("cache_ram", 0) * MIB,
        unified=options.get("kv_unified") is True,
        swa_full=options.get("swa_full") is True,
        flash=flash if isinstance(flash, bool) else None,
    )
    slots = options.get("slots")
    return Wish(context=context if isinstance(context, int) else None, largest=context == "max", slots=slots, base=base)


def _bad_option(selection: Selection, name: str, problem: str) -> Refused:
    detail = f"option `{name}`: {problem}"
    return refusal("invalid_option", selection.model_id, detail, option=name, suggestion=problem)


def _disk(selection: Selection, disk_free: int | None) -> Refused | None:
    needed = sum(file.size_bytes or 0 for file in selection.files) if selection.warmth == "cold" else 0
    return disk_full(selection.model_id, needed, disk_free)


def disk_full(model_id: str, needed: int, free: int | None) -> Refused | None:
    """A refusal when `needed` bytes and the margin are more than `free`; None when there is room or nobody knows."""
    if not needed or free is None or needed + DISK_MARGIN <= free:
        return None
    hint = f"make room for {human_bytes(needed + DISK_MARGIN - free)} on the disk of the model cache"
    detail = f"the download needs {human_bytes(needed)} and {human_bytes(DISK_MARGIN)} to spare: {hint}"
    return refusal("disk_full", model_id, detail, needed=needed, free=free, suggestion=hint)


def _does_not_fit(selection: Selection, why: DoesNotFit) -> Refused:
    lines = "; ".join(_line(each) for each in why.per_device)
    where = "fit nowhere as long as other models are loaded" if why.evictable else "fit nowhere"
    return refusal(
        "does_not_fit",
        selection.model_id,
        f"{human_mib(why.needed_mb)} at {why.settings.slots} × {why.settings.context} tokens {where} ({lines}); "
        + why.suggestion,
        needed_mb=why.needed_mb,
        per_device=[asdict(each) for each in why.per_device],
        suggestion=why.suggestion,
        evictable=why.evictable,
        context=why.settings.context,
        slots=why.settings.slots,
    )


def _line(line: DeviceSum) -> str:
    need = f"{line.needed_mb} MiB = {line.weights_mb} weights + {line.kv_mb} KV + {line.compute_mb} compute"
    need += f" {line.correction_mb:+d} as measured before" if line.correction_mb else ""
    have = f"free {line.free_mb} of {line.total_mb} MiB, {line.reserved_mb} reserved, {line.foreign_mb} foreign"
    return f"{line.name or f'device {line.device}'}: needs {need}; {have}"
