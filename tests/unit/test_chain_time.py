"""A client takes the chain's time beside its own clock's."""

import time

import pytest

from phala.errors import Refused
from phala.primitives.types import MOMENT, Moment
from phala.sdk import light
from phala.sdk.light import AGE_MS_MAX, AHEAD_MS_MAX, ClockBehind, fresh

NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000)


def at(offset_ms: int) -> bytes:
    return MOMENT.encode(Moment(NOW_MS + offset_ms))


@pytest.mark.parametrize("offset_ms", [-AGE_MS_MAX, 0, AHEAD_MS_MAX])
def test_a_time_within_a_minute_of_this_machines_is_taken(offset_ms: int) -> None:
    assert fresh(at(offset_ms)) == NOW_MS + offset_ms


def test_an_old_time_is_refused_unless_any_age_will_do() -> None:
    with pytest.raises(Refused, match="61 s old"):
        fresh(at(-AGE_MS_MAX - 1_000))

    assert fresh(at(-AGE_MS_MAX - 1_000), None) == NOW_MS - AGE_MS_MAX - 1_000


@pytest.mark.parametrize("age_ms_max", [light.AGE_MS_MAX, None])
def test_a_time_ahead_of_this_machines_is_refused(age_ms_max: int | None) -> None:
    with pytest.raises(ClockBehind, match="61 s ahead") as refusal:
        fresh(at(AHEAD_MS_MAX + 1_000), age_ms_max)

    assert "set this machine's clock" in refusal.value.mend


def test_a_development_networks_time_may_be_set_ahead() -> None:
    later = 10 * AHEAD_MS_MAX

    assert fresh(at(later), ahead_ms_max=None) == NOW_MS + later
