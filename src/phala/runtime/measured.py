"""What calls took, in picoseconds and bytes: written by `phala bench weights --write`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from phala.frame import Measured

MEASURED: Final[Mapping[tuple[str, str], Measured]] = MappingProxyType({})
