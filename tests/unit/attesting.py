"""Where genuine evidence lies, and how tests ask for a verdict on it."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from phala.attest import PRODUCTION, PlatformCode, TcbStatus, nvidia, snp
from phala.attest.envelopes import open_evidence

ROOT = Path(__file__).parents[2]
ALL = Path(os.environ.get("PHALA_VECTORS") or ROOT.parent / "shared" / "vectors") / "tee"
# All that is genuine: what `production` refuses for its age, its product or its debug bit, too.
LENIENT = replace(
    PRODUCTION,
    name="lenient",
    platforms=tuple(code for code in PlatformCode if code is not PlatformCode.SIMULATED),
    debug=True,
    tcb_statuses=tuple(each for each in TcbStatus if each is not TcbStatus.REVOKED),
    evaluation_number_min=0,
    advisories=None,
    products_excluded=(),
    alias_check=False,
    revocation_list=False,
    vmpl_max=3,
)


def index() -> dict[str, Any]:
    """The published verdicts; skips where the folder of vectors is absent."""
    if not (ALL / "index.json").exists():
        assert "PHALA_VECTORS" not in os.environ, f"{ALL} holds no index.json"
        pytest.skip("PHALA_VECTORS is not set, and ../shared/vectors is absent")
    document: dict[str, Any] = json.loads((ALL / "index.json").read_text())
    return document


@cache
def read(name: str) -> bytes:
    """A file of the folder of vectors."""
    index()
    return (ALL / name).read_bytes()


def amd(key: str, chain: str) -> dict[str, bytes]:
    return {snp.KEY: read(key), snp.CHAIN: read(chain)}


def gpu(case: dict[str, Any]) -> tuple[bytes, dict[str, bytes]]:
    """A report, and its chain."""
    if "evidence" in case:
        opened = open_evidence(read(case["evidence"]))[case.get("item", 0)]
        return opened.evidence.blob, dict(opened.collateral)
    (opened,) = open_evidence(read(case["report"]))
    chain = case.get("chain") or case["report"].replace("report", "chain")
    return opened.evidence.blob, {nvidia.CHAIN: read(chain)}


def intel(name: str) -> dict[str, bytes]:
    return {field: text.encode() for field, text in json.loads(read(name)).items()}
