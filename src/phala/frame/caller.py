"""Who asks for a call that is kept or made by another: `OriginCaller` of runtimes."""

from dataclasses import dataclass
from typing import Final, assert_never

from phala.codec import Descriptor, Malformed, Reader, Registry
from phala.codec.registry import Type
from phala.frame.described import Case, cases_type
from phala.frame.origin import Origin, Root, Signed, Unsigned
from phala.primitives.types import ACCOUNT_ID

SYSTEM: Final = 0  # the one pallet that has origins
ROOT, SIGNED, NONE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class RawOriginType(Descriptor[Origin]):
    def write(self, out: bytearray, value: Origin, /) -> None:
        match value:
            case Root():
                out.append(ROOT)
            case Signed(account):
                out.append(SIGNED)
                ACCOUNT_ID.write(out, account)
            case Unsigned():
                out.append(NONE)
            case _:
                assert_never(value)

    def read(self, reader: Reader, /) -> Origin:
        (kind,) = reader.take(1)
        if kind > NONE:
            raise Malformed(f"RawOrigin has no variant {kind}", offset=reader.offset - 1)
        if kind == SIGNED:
            return Signed(ACCOUNT_ID.read(reader))
        return Root() if kind == ROOT else Unsigned()

    def type_info(self, registry: Registry, /) -> Type:
        cases = (Case("Root", ROOT), Case("Signed", SIGNED, (ACCOUNT_ID,)), Case("None", NONE))
        return cases_type(("frame_support", "dispatch", "RawOrigin"), cases, registry)


RAW_ORIGIN: Final = RawOriginType()


@dataclass(frozen=True, slots=True)
class OriginCallerType(Descriptor[Origin]):
    def write(self, out: bytearray, value: Origin, /) -> None:
        out.append(SYSTEM)
        RAW_ORIGIN.write(out, value)

    def read(self, reader: Reader, /) -> Origin:
        (pallet,) = reader.take(1)
        if pallet != SYSTEM:
            raise Malformed(f"pallet {pallet} has no origins", offset=reader.offset - 1)
        return RAW_ORIGIN.read(reader)

    def type_info(self, registry: Registry, /) -> Type:
        cases = (Case("system", SYSTEM, (RAW_ORIGIN,)),)
        return cases_type(("phala_runtime", "OriginCaller"), cases, registry)


ORIGIN_CALLER: Final = OriginCallerType()
