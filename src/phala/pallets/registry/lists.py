"""Allow-lists: governance adds and removes entries."""

from typing import Final, TypeVar

from phala.pallets.registry.errors import ListFull, ListUnchanged

LIST_ITEMS_MAX: Final = 64

Entry = TypeVar("Entry")


def added(known: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
    if entry in known:
        raise ListUnchanged
    if len(known) >= LIST_ITEMS_MAX:
        raise ListFull
    return (*known, entry)


def removed(known: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
    if entry not in known:
        raise ListUnchanged
    return tuple(each for each in known if each != entry)
