"""Names of contracts on this machine: `phala deploy` gives them, `call` and `query` take them."""

import re
from typing import Final

from phala.devnet.files import NetworkFiles, load_document, save_document
from phala.errors import Invalid
from phala.messages.types import ContractId

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
ID: Final = re.compile(r"0x[0-9a-fA-F]{64}")


def ensure_contract_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} is no contract's name",
            mend="give one with --name: letters, digits, - and _, at most 64, a letter first",
        )
    return name


def load_names(files: NetworkFiles, genesis: bytes) -> dict[str, str]:
    """Ids by name; those of an earlier genesis in the same folder are of no chain any more."""
    if not files.contracts.exists():
        return {}
    document = load_document(files.contracts)
    names = document.get("names")
    if document.get("genesis") != "0x" + genesis.hex() or not isinstance(names, dict):
        return {}
    return {name: each for name, each in names.items() if isinstance(each, str)}


def save_name(files: NetworkFiles, genesis: bytes, name: str, contract: ContractId) -> None:
    names = {**load_names(files, genesis), name: "0x" + contract.hex()}
    save_document(files.contracts, {"genesis": "0x" + genesis.hex(), "names": names})


def contract_of(text: str, names: dict[str, str]) -> ContractId:
    """The contract that a name or a `0x` id stands for.

    Raises:
        Invalid: neither.
    """
    found = names.get(text, text)
    if not ID.fullmatch(found):
        known = ", ".join(sorted(names)) or "none yet"
        raise Invalid(
            f"there is no contract {text!r} here",
            mend=f"give its 0x id, or one of the names that were deployed from here: {known}",
        )
    return ContractId(bytes.fromhex(found[2:]))
