"""Records that are made by the thousand."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """A frozen dataclass to whoever checks types; when it runs nothing guards it, and it is made in
    a third of the time."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
