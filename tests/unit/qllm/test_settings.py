"""A setting is said once, on its field; everything else follows from it."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qllm.settings import PlacedSetting, Setting, SettingRefused, check, make, settings_of

from tests.unit.qllm.sample_settings import Colour, Inner, Sample


def setting(key: str) -> PlacedSetting:
    (found,) = [one for one in settings_of(Sample) if one.key == key]
    return found


def test_settings_inside_others_stand_at_their_place_and_other_fields_are_none() -> None:
    keys = [one.key for one in settings_of(Sample)]
    assert keys == [
        *("rest", "name", "count", "least", "colour", "shape", "file", "tag", "fast", "max_wait_ms", "share"),
        *("config", "shared_config"),
    ]


def test_all_names_of_a_setting_follow_from_one() -> None:
    one = setting("max_wait_ms")
    assert (one.field, one.name, one.option, one.environment) == (
        "wait_s", "max-wait-ms", "--max-wait-ms", "QLLM_MAX_WAIT_MS",
    )  # fmt: skip
    assert (one.unit, one.range, one.given(one.default), one.help) == ("ms", "0 to 60000", 5.0, "Limits the wait.")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"count": 0}, "--count: got 0, allowed is 1 to 9"),
        ({"count": 10}, "--count: got 10, allowed is 1 to 9"),
        ({"least": 1}, "--least: got 1, allowed is 2 or more"),
        ({"shape": "flat"}, "--shape: got 'flat', allowed are round, square"),
        ({"inner": Inner(wait_s=61)}, "--max-wait-ms: got 61000, allowed is 0 to 60000"),
        ({"inner": Inner(share=float("nan"))}, "--share: got nan, allowed is 0 to 0.9"),
        ({"inner": Inner(wait_s=float("inf"))}, "--max-wait-ms: got inf, allowed is 0 to 60000"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_option_and_unit(changes: dict[str, object], refusal: str) -> None:
    check(Sample())
    with pytest.raises(SettingRefused) as refused:
        check(replace(Sample(), **changes))  # type: ignore[arg-type]
    assert str(refused.value) == refusal


def test_a_field_is_refused_by_its_own_name_and_unit_where_a_path_is_given() -> None:
    with pytest.raises(SettingRefused) as refused:
        check(Inner(wait_s=61), "job.settings")
    assert str(refused.value) == "job.settings.wait_s: got 61, allowed is 0 to 60"


def test_a_value_at_either_end_of_its_range_is_allowed() -> None:
    for one in settings_of(Inner):
        for value in (one.setting.low, one.setting.high):
            assert one.refusal(value) is None
            check(make(Inner, {"max_wait_ms": 5.0, "share": 0.5} | {one.key: value}))


def test_dataclasses_are_made_of_the_values_of_options() -> None:
    values = {one.key: one.given(one.default) for one in settings_of(Sample)}
    assert make(Sample, values) == Sample()
    given_ = values | {"tag": ["a", "b"], "colour": Colour.BLUE, "max_wait_ms": 20.0, "share": 0.1}
    assert make(Sample, given_) == Sample(tags=("a", "b"), colour=Colour.BLUE, inner=Inner(wait_s=0.02, share=0.1))


@dataclass(frozen=True)
class Unlimited:
    anything: Annotated[float, Setting(), "Anything."] = 1.0
    limit: Annotated[float, Setting(0), "Limits."] = 1.0
    length: Annotated[float, Setting(0, is_finite=True), "Lasts."] = 1.0


def test_infinity_is_allowed_where_nothing_limits_a_number_unless_it_has_to_be_finite() -> None:
    check(Unlimited(anything=math.inf, limit=math.inf))
    check(Unlimited(anything=-math.inf, length=1e300))
    for changes, refusal in (
        ({"limit": -math.inf}, "--limit: got -inf, allowed is 0 or more"),
        ({"limit": math.nan}, "--limit: got nan, allowed is 0 or more"),
        ({"anything": math.nan}, "--anything: got nan, allowed is a number"),
        ({"length": math.inf}, "--length: got inf, allowed is a finite number, 0 or more"),
        ({"length": -1.0}, "--length: got -1, allowed is 0 or more"),
    ):
        with pytest.raises(SettingRefused) as refused:
            check(Unlimited(**changes))
        assert str(refused.value) == refusal


@dataclass(frozen=True)
class Scaled:
    value_s: Annotated[float, Setting(option="value-ms", scale=1e3)] = 1.0


@given(
    st.decimals(min_value=-1_000_000, max_value=1_000_000, places=5), st.sampled_from([1.0, 1e3, 1e-3, 60.0, 1024.0])
)
def test_an_options_value_comes_back_from_its_field_unchanged(value: object, scale: float) -> None:
    (plain,) = settings_of(Scaled)
    one = replace(plain, setting=replace(plain.setting, scale=scale))
    given_ = float(str(value))
    assert one.given(one.taken(given_)) == pytest.approx(given_, rel=1e-11, abs=1e-300)
    if scale == 1e3:
        assert one.given(one.taken(given_)) == given_
