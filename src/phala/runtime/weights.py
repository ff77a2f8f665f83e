"""What is declared of what `phala bench weights` measured."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from phala.frame import Measured
from phala.runtime.measured import EXTRINSIC, MEASURED

MARGIN_PERCENT: Final = 150  # a machine that is busy, or half as quick again, still keeps pace
BASE_REF_TIME: Final = EXTRINSIC * MARGIN_PERCENT // 100  # of every extrinsic, beside its call's


def declared() -> Mapping[tuple[str, str], Measured]:
    """What calls weigh: what was measured, and a margin of time."""
    return MappingProxyType(
        {
            name: Measured(
                each.ref_time * MARGIN_PERCENT // 100,
                each.each * MARGIN_PERCENT // 100,
                each.proof_size,
                each.proof_each,
            )
            for name, each in MEASURED.items()
        }
    )
