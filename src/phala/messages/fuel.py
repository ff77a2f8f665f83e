"""How much fuel a call may burn: by class, which its sender names and pays for before it runs.

Class n is 2**n fuel. An outcome tells what was burnt in the same classes.
"""

from typing import Final

FUEL_MIN: Final = 20  # a small contract's start and end
FUEL_MAX: Final = 36  # some twenty seconds of a core
FUEL_DEFAULT: Final = 28  # a hundred times what a counter takes, and four times a thousand rows
FUEL_REF_TIME: Final = 20  # picoseconds of a block that a unit of fuel weighs, and pays for
FUEL_PER_MS: Final = 2_000_000  # of a cluster: what every replica of it keeps pace with
FUEL_OWED_MAX: Final = 1 << 37  # what a cluster may have before it: a minute, at that pace


def fuel_known(fuel_class: int) -> bool:
    return FUEL_MIN <= fuel_class <= FUEL_MAX


def fuel_of(fuel_class: int) -> int:
    """Nothing for a class that there is not: what names it is refused."""
    return 1 << fuel_class if fuel_known(fuel_class) else 0
