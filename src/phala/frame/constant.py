"""A number that clients read from the metadata."""

from dataclasses import dataclass
from typing import Any

from phala.codec import Descriptor


@dataclass(frozen=True, slots=True)
class Constant:
    name: str
    descriptor: Descriptor[Any]
    value: Any
    doc: str
