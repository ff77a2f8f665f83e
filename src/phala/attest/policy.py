"""Which evidence a verifier accepts: a short text that people compare, and vote on."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final, TypeVar

from phala.attest.ecdsa import POINT_BYTES, ensure_point
from phala.attest.errors import PolicyMalformed
from phala.attest.verdict import PlatformCode, TcbStatus

T = TypeVar("T")

POLICY_VERSION: Final = 2
POLICY_BYTES_MAX: Final = 16 * 1024
ITEMS_MAX: Final = 256  # of one list
_NAME_CHARACTERS_MAX: Final = 32
_ID_BYTES_MAX: Final = 64
_HASH_BYTES: Final = 32
_PLATFORMS: Final = {code.word: code for code in PlatformCode}
_STATUSES: Final = {status.word: status for status in TcbStatus}
_NUMBER_MAX: Final = 2**32 - 1
_AGE_MS_MAX: Final = 2**48
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ADVISORY: Final = re.compile(r"INTEL-SA-[0-9]{5}")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class Floor:
    """The least security version of each part of an AMD processor's firmware.

    AMD publishes no signed word on what is up to date: the floors are the policy's own data.
    """

    product: str  # milan, milan-x, genoa, genoa-x, bergamo, turin
    bl: int = 0
    tee: int = 0
    snp: int = 0
    ucode: int = 0
    fmc: int = 0  # Turin alone has it


# Products of a line: one root certifies them all, so who excludes the line excludes them.
LINES: Final = MappingProxyType(
    {"bergamo": "genoa", "genoa-x": "genoa", "milan-x": "milan", "siena": "genoa"}
)
_LEVELS: Final = tuple(each.name for each in fields(Floor) if each.name != "product")


@dataclass(frozen=True, slots=True)
class Policy:
    """Frozen, and one text for one policy: `encode` and `decode` are exact inverses.

    Every default is the strict one.

    Raises:
        PolicyMalformed: simulated evidence would be mixed with hardware's, or the fields are out
            of bounds, or lists are unordered.
    """

    name: str
    platforms: tuple[PlatformCode, ...]  # ascending
    debug: bool  # whether enclaves that their host can debug are accepted
    tcb_statuses: tuple[TcbStatus, ...]  # ascending; Revoked is never accepted
    evaluation_number_min: int = 0  # of Intel's collateral: older judges by older knowledge
    # SEC1 compressed P-256 point: the network's own root, for simulated evidence alone.
    simulated_root: bytes | None = None
    # What may be open where a status other than up to date is accepted; None: anything.
    advisories: tuple[str, ...] | None = ()
    floors: tuple[Floor, ...] = ()  # by product; AMD's without one have no status
    products_excluded: tuple[str, ...] = ()
    blocked: tuple[bytes, ...] = ()  # platform ids, whatever else they show
    age_ms_max: int = 300_000  # of evidence that says when it was made: Nitro's
    alias_check: bool = True  # AMD: the firmware looked for memory that has two addresses
    revocation_list: bool = True  # AMD: refuse where nobody can tell what is revoked
    vmpl_max: int = 0  # AMD: the least privileged level that may speak for the guest
    config_id: bool = False  # TDX: whether MRCONFIGID must be set
    rims: tuple[bytes, ...] = ()  # SHA-256 of NVIDIA manifests taken though their signer expired

    def __post_init__(self) -> None:
        if not (self.name.isascii() and 0 < len(self.name) <= _NAME_CHARACTERS_MAX):
            raise _malformed(f"the name {self.name!r} is not 1 to {_NAME_CHARACTERS_MAX} ASCII")
        for what, listed in (("platforms", self.platforms), ("TCB statuses", self.tcb_statuses)):
            if list(listed) != sorted(set(listed)) or not listed:
                raise _malformed(f"{what} {[each.word for each in listed]} are none or unordered")
        if TcbStatus.REVOKED in self.tcb_statuses:
            raise _malformed("revoked platforms are accepted")
        if not 0 <= self.evaluation_number_min <= _NUMBER_MAX:
            raise _malformed(f"the evaluation number {self.evaluation_number_min}")
        if not (0 < self.age_ms_max <= _AGE_MS_MAX and 0 <= self.vmpl_max <= 3):
            raise _malformed(f"the age {self.age_ms_max} ms, or VMPL {self.vmpl_max}")
        self._check_lists()
        if PlatformCode.SIMULATED in self.platforms and len(self.platforms) > 1:
            raise _malformed("simulated evidence stands in one pool with hardware's")
        if self.simulated_root is not None:
            if PlatformCode.SIMULATED not in self.platforms:
                raise _malformed("a simulated root stands beside hardware platforms")
            ensure_point(self.simulated_root)

    def _check_lists(self) -> None:
        products = tuple(floor.product for floor in self.floors)
        words = (
            ("advisories", self.advisories or (), _ADVISORY),
            ("floors", products, _WORD),
            ("products", self.products_excluded, _WORD),
        )
        for what, texts, form in words:
            _check_order(what, texts)
            if not all(form.fullmatch(each) for each in texts):
                raise _malformed(f"{what} {list(texts)} are not as {form.pattern}")
        for what, sizes, ids in (
            ("blocked platforms", range(1, _ID_BYTES_MAX + 1), self.blocked),
            ("manifests", range(_HASH_BYTES, _HASH_BYTES + 1), self.rims),
        ):
            _check_order(what, ids)
            if not all(len(each) in sizes for each in ids):
                raise _malformed(f"{what} of other sizes than {sizes.start} to {sizes.stop - 1}")
        for floor in self.floors:
            if not all(0 <= getattr(floor, level) <= 255 for level in _LEVELS):
                raise _malformed(f"the floor {floor}")

    def encode(self) -> bytes:
        """The canonical text: JSON with sorted keys, two spaces deep, ended by a newline."""
        root = None if self.simulated_root is None else self.simulated_root.hex()
        text = {
            "version": POLICY_VERSION,
            "name": self.name,
            "platforms": [code.word for code in self.platforms],
            "debug": self.debug,
            "tcbStatuses": [status.word for status in self.tcb_statuses],
            "evaluationNumberMin": self.evaluation_number_min,
            "simulatedRoot": root,
            "advisories": None if self.advisories is None else list(self.advisories),
            "floors": {
                floor.product: {level: getattr(floor, level) for level in _LEVELS}
                for floor in self.floors
            },
            "productsExcluded": list(self.products_excluded),
            "blocked": [each.hex() for each in self.blocked],
            "ageMsMax": self.age_ms_max,
            "aliasCheck": self.alias_check,
            "revocationList": self.revocation_list,
            "vmplMax": self.vmpl_max,
            "configId": self.config_id,
            "rims": [each.hex() for each in self.rims],
        }
        return (json.dumps(text, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> "Policy":
        """The policy that `data` is the canonical text of, or `PolicyMalformed`."""
        if len(data) > POLICY_BYTES_MAX:
            raise _malformed(f"{len(data)} bytes, at most {POLICY_BYTES_MAX} are allowed")
        try:
            text = json.loads(data)
        except (ValueError, RecursionError):
            raise _malformed("the bytes are not JSON") from None
        policy = _policy_of(text)
        if policy.encode() != data:
            raise _malformed("the text is not canonical")
        return policy

    def trusting(self, simulated_root: bytes) -> "Policy":
        """The same with a network's simulated root: 33 bytes, SEC1 compressed P-256."""
        return replace(self, simulated_root=simulated_root)

    def excludes(self, product: str) -> bool:
        """Whether it excludes that product, or its line."""
        excluded = self.products_excluded
        return product in excluded or LINES.get(product, product) in excluded

    def floor(self, product: str) -> Floor | None:
        """What the policy asks of that product's firmware."""
        return next((floor for floor in self.floors if floor.product == product), None)


def _policy_of(text: Any) -> Policy:
    if not isinstance(text, dict) or tuple(sorted(text)) != _FIELDS:
        raise _malformed(f"the text is no object with the fields {', '.join(_FIELDS)}")
    if type(text["version"]) is not int or text["version"] != POLICY_VERSION:
        raise _malformed(f"version {text['version']!r}, this build knows {POLICY_VERSION}")
    for name, kind in _KINDS.items():
        if type(text[name]) is not kind:
            raise _malformed(f"{name} {text[name]!r} is no {kind.__name__}")
    listed = text["advisories"]
    return Policy(
        name=text["name"],
        platforms=_named(text["platforms"], _PLATFORMS),
        debug=text["debug"],
        tcb_statuses=_named(text["tcbStatuses"], _STATUSES),
        evaluation_number_min=text["evaluationNumberMin"],
        simulated_root=_root_of(text),
        advisories=None if listed is None else _texts("advisories", listed),
        floors=_floors_of(text["floors"]),
        products_excluded=_texts("productsExcluded", text["productsExcluded"]),
        blocked=_ids("blocked", text["blocked"]),
        age_ms_max=text["ageMsMax"],
        alias_check=text["aliasCheck"],
        revocation_list=text["revocationList"],
        vmpl_max=text["vmplMax"],
        config_id=text["configId"],
        rims=_ids("rims", text["rims"]),
    )


def _named(words: Any, known: Mapping[str, T]) -> tuple[T, ...]:
    if not isinstance(words, list):
        raise _malformed(f"{words!r} is no list of {', '.join(known)}")
    unknown = [word for word in words if not isinstance(word, str) or word not in known]
    if unknown:
        raise _malformed(f"{unknown!r} are not among {', '.join(known)}")
    return tuple(known[word] for word in words)


def _texts(what: str, listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise _malformed(f"{what} is no list of texts")
    return tuple(listed)


def _ids(what: str, listed: Any) -> tuple[bytes, ...]:
    texts = _texts(what, listed)
    if not all(_HEX.fullmatch(each) for each in texts):
        raise _malformed(f"{what} is no list of hex")
    return tuple(bytes.fromhex(each) for each in texts)


def _floors_of(listed: dict[str, Any]) -> tuple[Floor, ...]:
    floors = []
    for product, levels in listed.items():
        if not isinstance(levels, dict) or sorted(levels) != sorted(_LEVELS):
            raise _malformed(f"the floor of {product} has not the parts {', '.join(_LEVELS)}")
        if not all(type(level) is int for level in levels.values()):
            raise _malformed(f"the floor of {product} is not of integers")
        floors.append(Floor(product, **levels))
    return tuple(floors)


def _root_of(text: dict[str, Any]) -> bytes | None:
    root = text["simulatedRoot"]
    if root is None:
        return None
    if not isinstance(root, str) or len(root) != 2 * POINT_BYTES:
        raise _malformed(f"simulatedRoot is not {POINT_BYTES} bytes of hex")
    try:
        return bytes.fromhex(root)
    except ValueError:
        raise _malformed(f"simulatedRoot {root!r} is not hex") from None


def _check_order(what: str, listed: tuple[str, ...] | tuple[bytes, ...]) -> None:
    if list(listed) != sorted(set(listed)) or len(listed) > ITEMS_MAX:  # type: ignore[type-var]
        raise _malformed(f"{what} are unordered, or more than {ITEMS_MAX}")


def _malformed(what: str) -> PolicyMalformed:
    return PolicyMalformed(
        f"no attestation policy: {what}", mend="give the text that Policy.encode writes"
    )


_KINDS: Final[Mapping[str, type]] = {
    "name": str,
    "debug": bool,
    "evaluationNumberMin": int,
    "floors": dict,
    "ageMsMax": int,
    "aliasCheck": bool,
    "revocationList": bool,
    "vmplMax": int,
    "configId": bool,
}
_FIELDS: Final = tuple(
    sorted(
        (
            *_KINDS,
            *("advisories", "blocked", "platforms", "productsExcluded", "rims"),
            *("simulatedRoot", "tcbStatuses", "version"),
        )
    )
)

# Accepts nothing until it trusts a root: `DEV.trusting(root)`.
DEV: Final = Policy("dev", (PlatformCode.SIMULATED,), debug=True, tcb_statuses=(TcbStatus.NONE,))
# Refuses simulated evidence three times over: its platform, its debug bit, its root.
PRODUCTION: Final = Policy(
    "production",
    (PlatformCode.SGX, PlatformCode.TDX, PlatformCode.SEV_SNP, PlatformCode.NITRO),
    debug=False,
    tcb_statuses=(TcbStatus.UP_TO_DATE,),
    evaluation_number_min=17,  # Intel's of early 2025; governance raises it
    # AMD's bulletins, "TCB value for attestation": docs/reference/policy.md has each with its
    # source; governance raises them. Parts with stacked cache count their microcode otherwise, so
    # those have floors of their own.
    floors=(
        Floor("bergamo", bl=9, snp=21, ucode=25),  # ucode: AMD-SB-3019
        Floor("genoa", bl=9, snp=27, ucode=86),  # snp: AMD-SB-3020; ucode: AMD-SB-3027
        Floor("genoa-x", bl=9, snp=27, ucode=81),  # the same
        Floor("milan", bl=4, snp=24, ucode=219),  # snp, ucode: AMD-SB-3019
        Floor("turin", snp=4, ucode=81),  # snp: AMD-SB-3020; ucode: AMD-SB-3027
    ),
    # The seed of Milan's keys was read out by software (arXiv 2605.12990): whoever has a chip's
    # can sign reports of any firmware, so no floor helps.
    products_excluded=("milan",),
)
# For GPUs and switches, which serve a worker and never are one.
DEVICES: Final = replace(PRODUCTION, name="devices", platforms=(PlatformCode.NVIDIA,))
