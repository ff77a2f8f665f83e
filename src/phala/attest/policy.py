"""Which evidence a verifier accepts: a short text that people compare, and vote on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from phala.attest.ecdsa import POINT_BYTES, ensure_point
from phala.attest.errors import PolicyMalformed
from phala.attest.verdict import PlatformCode, TcbStatus

T = TypeVar("T")

POLICY_VERSION: Final = 1
POLICY_BYTES_MAX: Final = 4096
_NAME_CHARACTERS_MAX: Final = 32
_PLATFORMS: Final = {code.word: code for code in PlatformCode}
_STATUSES: Final = {status.word: status for status in TcbStatus}
_NUMBER_MAX: Final = 2**32 - 1
_FIELDS: Final = (
    "debug",
    "evaluationNumberMin",
    "name",
    "platforms",
    "simulatedRoot",
    "tcbStatuses",
    "version",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Frozen, and one text for one policy: `encode` and `decode` are exact inverses.

    Raises:
        PolicyMalformed: simulated evidence would be mixed with hardware's, or accepted without
            debug, or the fields are out of bounds.
    """

    name: str
    platforms: tuple[PlatformCode, ...]  # ascending
    debug: bool  # whether enclaves that their host can debug are accepted
    tcb_statuses: tuple[TcbStatus, ...]  # ascending; Revoked is never accepted
    evaluation_number_min: int = 0  # of Intel's collateral: older judges by older knowledge
    # SEC1 compressed P-256 point: the network's own root, for simulated evidence alone.
    simulated_root: bytes | None = None

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
        if PlatformCode.SIMULATED in self.platforms and len(self.platforms) > 1:
            raise _malformed("simulated evidence stands in one pool with hardware's")
        if self.simulated_root is not None:
            if PlatformCode.SIMULATED not in self.platforms:
                raise _malformed("a simulated root stands beside hardware platforms")
            ensure_point(self.simulated_root)

    def encode(self) -> bytes:
        """The canonical text: JSON with sorted keys, two spaces deep, ended by a newline."""
        root = None if self.simulated_root is None else self.simulated_root.hex()
        fields = {
            "version": POLICY_VERSION,
            "name": self.name,
            "platforms": [code.word for code in self.platforms],
            "debug": self.debug,
            "tcbStatuses": [status.word for status in self.tcb_statuses],
            "evaluationNumberMin": self.evaluation_number_min,
            "simulatedRoot": root,
        }
        return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> "Policy":
        """The policy that `data` is the canonical text of, or `PolicyMalformed`."""
        if len(data) > POLICY_BYTES_MAX:
            raise _malformed(f"{len(data)} bytes, at most {POLICY_BYTES_MAX} are allowed")
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            raise _malformed("the bytes are not JSON") from None
        policy = _policy_of(fields)
        if policy.encode() != data:
            raise _malformed("the text is not canonical")
        return policy

    def trusting(self, simulated_root: bytes) -> "Policy":
        """The same with a network's simulated root: 33 bytes, SEC1 compressed P-256."""
        return replace(self, simulated_root=simulated_root)


def _policy_of(fields: Any) -> Policy:
    if not isinstance(fields, dict) or tuple(sorted(fields)) != _FIELDS:
        raise _malformed(f"the text is no object with the fields {', '.join(_FIELDS)}")
    if type(fields["version"]) is not int or fields["version"] != POLICY_VERSION:
        raise _malformed(f"version {fields['version']!r}, this build knows {POLICY_VERSION}")
    name, debug, number = fields["name"], fields["debug"], fields["evaluationNumberMin"]
    if not isinstance(name, str) or not isinstance(debug, bool) or type(number) is not int:
        raise _malformed("name is no text, debug no boolean, or the evaluation number none")
    return Policy(
        name=name,
        platforms=_named(fields["platforms"], _PLATFORMS),
        debug=debug,
        tcb_statuses=_named(fields["tcbStatuses"], _STATUSES),
        evaluation_number_min=number,
        simulated_root=_root_of(fields),
    )


def _named(words: Any, known: Mapping[str, T]) -> tuple[T, ...]:
    if not isinstance(words, list):
        raise _malformed(f"{words!r} is no list of {', '.join(known)}")
    unknown = [word for word in words if not isinstance(word, str) or word not in known]
    if unknown:
        raise _malformed(f"{unknown!r} are not among {', '.join(known)}")
    return tuple(known[word] for word in words)


def _root_of(fields: dict[str, Any]) -> bytes | None:
    text = fields["simulatedRoot"]
    if text is None:
        return None
    if not isinstance(text, str) or len(text) != 2 * POINT_BYTES:
        raise _malformed(f"simulatedRoot is not {POINT_BYTES} bytes of hex")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _malformed(f"simulatedRoot {text!r} is not hex") from None


def _malformed(what: str) -> PolicyMalformed:
    return PolicyMalformed(
        f"no attestation policy: {what}", mend="give the text that Policy.encode writes"
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
)
