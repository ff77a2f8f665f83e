"""Random values of any type that metadata lists, as bytes: the specification of SCALE, once more.

Nothing of our codec is used, so what it makes of these bytes is a test of it.
Source: the `parity-scale-codec` crate; the types are read in their common form (metadata_forms).
"""

import random
from collections.abc import Mapping
from typing import Any

DEPTH_MAX = 6  # from there on the shortest is chosen
WIDTHS = {
    "u8": 1, "u16": 2, "u32": 4, "u64": 8, "u128": 16, "u256": 32,
    "i8": 1, "i16": 2, "i32": 4, "i64": 8, "i128": 16, "i256": 32,
}  # fmt: skip
TEXTS = ("", "a", "Phala", "naïve", "日本", "🦀 crab")


def compact(value: int) -> bytes:
    if value < 1 << 6:
        return bytes([value << 2])
    if value < 1 << 14:
        return (value << 2 | 1).to_bytes(2, "little")
    if value < 1 << 30:
        return (value << 2 | 2).to_bytes(4, "little")
    size = max(4, (value.bit_length() + 7) // 8)
    return bytes([size - 4 << 2 | 3]) + value.to_bytes(size, "little")


def edges(bits: int) -> list[int]:
    """Numbers beside which a form of `Compact` ends, and those of the type itself."""
    ends = [0, 1 << 6, 1 << 14, 1 << 30, *(1 << at for at in range(32, bits + 1, 8)), 1 << bits]
    near = {end + step for end in ends for step in (-1, 0, 1)}
    return sorted(each for each in near if 0 <= each < 1 << bits)


class Arbitrary:
    """Values of the types of one metadata."""

    def __init__(
        self, types: list[Any], errors: list[tuple[int, int]], chance: random.Random
    ) -> None:
        self.types: Mapping[int, Any] = {each["id"]: each for each in types}
        self.chance = chance
        # The errors of a pallet that `ModuleError` may name: of others no client knows the type.
        self.errors = errors

    def value(self, number: int, depth: int = 0) -> bytes:
        kind, what = self.types[number]["definition"]
        if self.types[number]["path"][-1:] == ["ModuleError"]:
            return bytes([*self.chance.choice(self.errors), 0, 0, 0])
        match kind:
            case "primitive":
                return self.primitive(what)
            case "compact":
                width = self.width(what)
                return compact(self.number(8 * width)) if width else b""
            case "composite":
                return b"".join(self.value(each["type"], depth + 1) for each in what)
            case "variant":
                return self.variant(self.types[number]["path"], what, depth)
            case "sequence":
                count = self.chance.choice((0, 1, 2, 3)) if depth < DEPTH_MAX else 0
                return compact(count) + self.items(what, count, depth)
            case "array":
                return self.items(what[1], what[0], depth)
            case "tuple":
                return b"".join(self.value(each, depth + 1) for each in what)
            case _:
                raise NotImplementedError(kind)

    def items(self, number: int, count: int, depth: int) -> bytes:
        return b"".join(self.value(number, depth + 1) for _ in range(count))

    def primitive(self, name: str) -> bytes:
        if name == "bool":
            return self.chance.choice((b"\0", b"\1"))
        if name == "str":
            text = self.chance.choice(TEXTS).encode()
            return compact(len(text)) + text
        return self.number(8 * WIDTHS[name]).to_bytes(WIDTHS[name], "little")

    def number(self, bits: int) -> int:
        if self.chance.random() < 0.5:
            return self.chance.choice(edges(bits))
        return self.chance.getrandbits(self.chance.randint(1, bits))

    def variant(self, path: list[str], cases: list[Any], depth: int) -> bytes:
        if path[-1:] == ["Era"]:  # two bytes, or one zero; only some of them
            period = self.chance.randint(2, 16)
            steps = min(1 << period, 1 << 12)
            era = period - 1 | self.chance.randrange(steps) << 4
            return era.to_bytes(2, "little") if self.chance.random() < 0.8 else b"\0"
        if depth >= DEPTH_MAX:
            least = min(len(each["fields"]) for each in cases)
            cases = [each for each in cases if len(each["fields"]) == least]
        if path[-1:] == ["MultiAddress"] and depth:  # @polkadot/types guesses others by length
            cases = [each for each in cases if each["name"] == "Id"]
        case = self.chance.choice(cases)
        fields = (self.value(each["type"], depth + 1) for each in case["fields"])
        return bytes([case["index"]]) + b"".join(fields)

    def width(self, number: int) -> int:
        """Bytes of the integer in a compact one, which newtypes may wrap; 0 for the unit."""
        kind, what = self.types[number]["definition"]
        if kind == "primitive":
            return WIDTHS[what]
        if kind == "composite":
            return self.width(what[0]["type"])
        assert kind == "tuple"
        assert not what
        return 0

    def holds(self, number: int, name: str, above: frozenset[int] = frozenset()) -> bool:
        """Whether a value of this type may hold one whose path ends so."""
        entry = self.types[number]
        if entry["path"][-1:] == [name]:
            return True
        if number in above:
            return False
        parts = self.parts(number)
        return any(self.holds(each, name, above | {number}) for each in parts)

    def parts(self, number: int) -> list[int]:
        kind, what = self.types[number]["definition"]
        match kind:
            case "composite":
                return [each["type"] for each in what]
            case "variant":
                return [one["type"] for each in what for one in each["fields"]]
            case "sequence" | "compact":
                return [what]
            case "array":
                return [what[1]]
            case "tuple":
                return list(what)
            case _:
                return []
