"""Placing a model: what was asked is kept, what was left open is chosen, and a refusal shows its arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helexa.base.units import MIB
from helexa.neuron.core.fit import DoesNotFit, Fitted, Wish, fit
from helexa.neuron.core.footprint import Layer, ModelShape, Settings
from helexa.neuron.core.plan import DeviceState


def model(weights_mb: int = 1000, trained: int = 32768) -> ModelShape:
    """100 KiB of KV cache per token: 10 layers of 2 × 2560 f16 values."""
    return ModelShape(
        architecture="llama",
        trained_context=trained,
        weight_bytes=weights_mb * MIB,
        layers=(Layer(k=2560, v=2560),) * 10,
    )


def device(index: int = 0, total: int = 10_000, reserved: int = 0, foreign: int = 0, kind: str = "cpu") -> DeviceState:
    return DeviceState(
        index=index, kind=kind, name=f"d{index}", total_mb=total, reserved_mb=reserved, foreign_mb=foreign
    )


def fitted(result: Fitted | DoesNotFit) -> Fitted:
    assert isinstance(result, Fitted)
    return result


def refused(result: Fitted | DoesNotFit) -> DoesNotFit:
    assert isinstance(result, DoesNotFit)
    return result


def test_left_open_four_slots_of_8192_are_taken_where_they_fit() -> None:
    settings = fitted(fit(model(), Wish(), [device()])).settings
    assert (settings.slots, settings.context) == (4, 8192)


def test_a_model_trained_on_less_gets_no_more() -> None:
    assert fitted(fit(model(trained=2048), Wish(), [device()])).settings.context == 2048


@pytest.mark.parametrize(
    ("total", "slots", "context"),
    [(10_000, 4, 8192), (4_000, 2, 8192), (2_000, 1, 8192), (1_700, 1, 4096), (1_300, 1, 2048)],
)
def test_left_open_slots_and_then_context_shrink_until_a_device_could_hold_it(
    total: int, slots: int, context: int
) -> None:
    settings = fitted(fit(model(), Wish(), [device(total=total)])).settings
    assert (settings.slots, settings.context) == (slots, context)


def test_what_was_asked_is_never_made_smaller() -> None:
    result = refused(fit(model(), Wish(context=8192, slots=4), [device(total=4_000)]))
    assert (result.settings.slots, result.settings.context) == (4, 8192)
    asked = fitted(fit(model(), Wish(context=16384), [device(total=4_000)])).settings
    assert (asked.slots, asked.context) == (1, 16384)


def test_what_is_loaded_does_not_change_the_settings_only_whether_it_fits() -> None:
    empty = fitted(fit(model(), Wish(), [device(total=5_000)]))
    full = refused(fit(model(), Wish(), [device(total=5_000, reserved=4_000)]))
    assert full.settings == empty.settings


def test_the_device_with_the_most_free_memory_is_taken_not_the_first() -> None:
    devices = [device(0, reserved=4_000), device(1), device(2, reserved=2_000)]
    assert fitted(fit(model(), Wish(), devices)).shares[0].device == 1


def test_among_equals_the_first_device_is_taken() -> None:
    assert fitted(fit(model(), Wish(), [device(3), device(1), device(2)])).shares[0].device == 1


def test_a_share_adds_up() -> None:
    share = fitted(fit(model(), Wish(context=1024, slots=1), [device()])).shares[0]
    assert (share.weights_mb, share.kv_mb) == (1000, 100)
    assert share.needed_mb == share.weights_mb + share.kv_mb + share.compute_mb


def test_a_refusal_shows_each_devices_arithmetic() -> None:
    devices = [device(0, total=900, reserved=300, foreign=100), device(1, total=800)]
    result = refused(fit(model(), Wish(context=1024, slots=1), devices))
    first = result.per_device[0]
    assert (first.total_mb, first.reserved_mb, first.foreign_mb, first.free_mb) == (900, 300, 100, 500)
    assert first.needed_mb == first.weights_mb + first.kv_mb + first.compute_mb == result.needed_mb


def test_a_model_that_would_fit_after_evicting_others_says_so_and_where() -> None:
    devices = [device(0, total=3_000, reserved=2_900), device(1, total=3_000, reserved=2_500)]
    result = refused(fit(model(), Wish(context=1024, slots=1), devices))
    assert result.evictable
    assert result.suggestion.startswith("unload ")
    assert result.suggestion.endswith("from device 1")


def test_memory_of_other_processes_cannot_be_evicted() -> None:
    result = refused(fit(model(), Wish(context=1024, slots=1), [device(total=3_000, foreign=2_500)]))
    assert not result.evictable


@pytest.mark.parametrize(
    ("wish", "total", "expected"),
    [
        (Wish(context=8192, slots=4), 2_000, "set options.slots = 1"),
        (Wish(context=8192, slots=1), 1_600, 'set options.cache_type_k and cache_type_v = "q8_0"'),
        (Wish(context=32768, slots=1), 2_000, "set context = 8192"),
        (Wish(context=10_000_000, slots=1), 9_000, "set context = 32768"),
        (Wish(context=8192, slots=1, base=Settings(context=0, slots=0, type_k="q8_0", type_v="q8_0")), 1_300,
         "set context = 4096"),
        (Wish(context=8192, slots=4), 900, "use a smaller quantisation or model, or a device with more than"),
    ],
)  # fmt: skip
def test_the_suggestion_is_the_smallest_change_that_would_do(wish: Wish, total: int, expected: str) -> None:
    assert refused(fit(model(), wish, [device(total=total)])).suggestion.startswith(expected)


DEVICES = st.lists(
    st.builds(
        device,
        total=st.integers(0, 20_000),
        reserved=st.integers(0, 20_000),
        foreign=st.integers(0, 20_000),
        kind=st.sampled_from(["cpu", "cuda"]),
    ),
    min_size=1,
    max_size=4,
)
WISHES = st.builds(Wish, context=st.none() | st.integers(1, 65536), slots=st.none() | st.integers(1, 8))


@given(DEVICES, WISHES, st.integers(1, 15_000))
def test_a_placement_fits_and_a_refusal_does_not(devices: list[DeviceState], wish: Wish, weights: int) -> None:
    result = fit(model(weights), wish, devices)
    free = {d.index: d.free_mb for d in devices}
    if isinstance(result, Fitted):
        assert any(result.shares[0].needed_mb <= d.free_mb for d in devices if d.index == result.shares[0].device)
    else:
        assert all(line.needed_mb > line.free_mb for line in result.per_device)
        assert result.evictable == any(line.needed_mb <= line.capacity_mb for line in result.per_device)
        assert result.suggestion
    assert free


@given(DEVICES, st.integers(1, 32768), st.integers(1, 4), st.integers(1, 15_000))
def test_what_fits_still_fits_with_less_context(
    devices: list[DeviceState], context: int, slots: int, weights: int
) -> None:
    assume(isinstance(fit(model(weights), Wish(context=context, slots=slots), devices), Fitted))
    assert isinstance(fit(model(weights), Wish(context=max(1, context // 2), slots=slots), devices), Fitted)


def gpus(*totals: int, reserved: int = 0) -> list[DeviceState]:
    return [device(at, total, reserved=reserved, kind="cuda") for at, total in enumerate(totals)]


def test_max_is_the_trained_context_where_that_fits() -> None:
    settings = fitted(fit(model(trained=32768), Wish(largest=True), [device()])).settings
    assert (settings.context, settings.slots) == (32768, 1)


@pytest.mark.parametrize("total", [1300, 1700, 3000, 4000])
def test_max_is_the_most_that_fits(total: int) -> None:
    one = fitted(fit(model(), Wish(largest=True), [device(total=total)])).settings.context
    assert one % 256 == 0
    more = fit(model(), Wish(context=one + 256, slots=1), [device(total=total)])
    assert not refused(more).evictable


def test_max_keeps_the_slots_that_were_asked_for() -> None:
    alone = fitted(fit(model(), Wish(largest=True), [device(total=3000)])).settings.context
    four = fitted(fit(model(), Wish(largest=True, slots=4), [device(total=3000)])).settings
    assert four.slots == 4
    assert four.context <= alone // 4


def test_max_is_the_same_whatever_is_loaded() -> None:
    busy = fit(model(), Wish(largest=True), [device(total=3000, reserved=2900)])
    assert refused(busy).evictable
    assert refused(busy).settings == fitted(fit(model(), Wish(largest=True), [device(total=3000)])).settings


def test_a_model_that_no_gpu_holds_alone_is_split_over_as_few_as_will_do() -> None:
    wish = Wish(context=2048, slots=1)
    split = fitted(fit(model(weights_mb=20_000), wish, gpus(12_000, 16_000, 24_000 - 12_000), splits=True))
    assert [share.device for share in split.shares] == [1, 0]
    assert sum(share.weights_mb for share in split.shares) >= 20_000
    assert all(share.needed_mb <= room for share, room in zip(split.shares, (16_000, 12_000), strict=True))


def test_an_engine_that_cannot_split_is_refused_the_same_model() -> None:
    assert not refused(fit(model(weights_mb=20_000), Wish(context=2048, slots=1), gpus(12_000, 16_000))).evictable


def test_cpu_devices_are_never_split_over() -> None:
    shape, wish = model(weights_mb=9_000), Wish(context=2048, slots=1)
    assert isinstance(fit(shape, wish, [device(0, 6_000), device(1, 6_000)], splits=True), DoesNotFit)


def test_a_split_that_fits_only_when_others_go_says_what_must_go_where() -> None:
    shape, wish = model(weights_mb=20_000), Wish(context=2048, slots=1)
    found = refused(fit(shape, wish, gpus(14_000, 14_000, reserved=8_000), splits=True))
    assert found.evictable
    assert "device 0" in found.suggestion
    assert "device 1" in found.suggestion
    assert found.needed_mb == sum(line.needed_mb for line in found.per_device)


def test_what_was_measured_takes_the_place_of_the_prediction() -> None:
    wish = Wish(context=2048, slots=1)
    plain = fitted(fit(model(), wish, [device()])).shares[0]
    more = fitted(fit(model(), wish, [device()], measured=lambda _settings, _kind: plain.needed_mb + 300)).shares[0]
    assert (more.correction_mb, more.needed_mb, more.predicted_mb) == (300, plain.needed_mb + 300, plain.predicted_mb)


def test_no_measurement_makes_weights_and_cache_smaller_than_they_are() -> None:
    share = fitted(fit(model(), Wish(context=2048, slots=1), [device()], measured=lambda _settings, _kind: 1)).shares[0]
    assert share.needed_mb == share.weights_mb + share.kv_mb


def test_a_model_that_was_measured_to_need_more_is_refused_where_it_would_not_fit() -> None:
    wish = Wish(context=2048, slots=1)
    found = refused(fit(model(), wish, [device(total=2000)], measured=lambda _settings, _kind: 2500))
    assert (found.needed_mb, found.evictable) == (2500, False)


@given(st.lists(st.integers(1_000, 40_000), min_size=1, max_size=5), st.integers(500, 80_000), st.integers(1, 4))
def test_no_share_is_ever_larger_than_its_devices_room(totals: list[int], weights: int, slots: int) -> None:
    found = fit(model(weights_mb=weights), Wish(context=2048, slots=slots), gpus(*totals), splits=True)
    if isinstance(found, Fitted):
        assert all(share.needed_mb <= totals[share.device] for share in found.shares)
        assert sum(share.weights_mb for share in found.shares) >= weights - len(found.shares)
