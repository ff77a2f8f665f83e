"""`phala collateral`: what vendors say of their platforms, to judge evidence by offline."""

import json
import re
import time
from pathlib import Path
from typing import Final

import click

from phala.attest import Opened, PlatformCode, open_evidence
from phala.attest.envelopes import ENVELOPE_BYTES_MAX
from phala.attest.kept import INTEL_AUTHORITIES, plain, take_apart
from phala.attest.snp import decode_report, line_of_cpuid
from phala.attest.verify import COLLATERAL_BYTES_MAX, Evidence
from phala.cli import vendor_words
from phala.cli.evidence_files import items_of, read_bounded
from phala.cli.options import chain_options, json_option, place_of
from phala.cli.render import show as show_result
from phala.cli.session import submit_collateral
from phala.errors import Invalid
from phala.primitives.types import Moment
from phala.sdk import vendors as source
from phala.sdk.vendors import Vendors

NOW_MAX: Final = 253_402_300_799
_FMSPC: Final = re.compile("[0-9a-fA-F]{12}")
_AZURE_REPORT: Final = slice(0x20, 0x20 + 1184)  # reference: the HCL report's hardware report


@click.group()
def collateral() -> None:
    """Fetch, read and hand on what Intel and AMD sign about their platforms.

    Evidence is judged by it: which firmware is up to date, which keys are revoked. Nobody has to be
    believed for bringing it, for the vendor signed it; it expires after about a month.
    """


now_option = click.option(
    "--now",
    "now_s",
    type=click.IntRange(0, NOW_MAX),
    help="The time to judge at, in Unix seconds.  [default: this machine's clock]",
)


@collateral.command(short_help="Get it from Intel or AMD.")
@click.argument("evidence", required=False, type=click.Path(path_type=Path))
@click.option("--fmspc", help="Intel: the product, 12 hex digits, instead of evidence.")
@click.option("--tee", type=click.Choice(source.TEES), help="Intel: with --fmspc.")
@click.option(
    "--ca",
    type=click.Choice(source.AUTHORITIES),
    default=source.AUTHORITIES[0],
    show_default=True,
    help="Intel: with --fmspc: who issued the platform's certificate.",
)
@click.option("--evaluation", type=click.IntRange(0, 2**32 - 1), help="Intel: this number's.")
@click.option("--amd", type=click.Choice(source.LINES), help="AMD: the line, instead of evidence.")
@click.option("--vlek", is_flag=True, help="AMD: with --amd: of clouds' keys.")
@click.option(
    "--pcs",
    default=source.INTEL_URL,
    show_default=True,
    metavar="URL",
    help="Intel's service, or a PCCS that caches it.",
)
@click.option(
    "--root-crl",
    default=source.INTEL_ROOT_CRL_URL,
    show_default=True,
    metavar="URL",
    help="The revocation list of Intel's root.",
)
@click.option(
    "--kds", default=source.AMD_URL, show_default=True, metavar="URL", help="AMD's key server."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.  [default: collateral.json]",
)
@now_option
@json_option
def fetch(
    *,
    evidence: Path | None,
    fmspc: str | None,
    tee: str | None,
    ca: str,
    evaluation: int | None,
    amd: str | None,
    vlek: bool,
    pcs: str,
    root_crl: str,
    kds: str,
    out: Path | None,
    now_s: int | None,
    as_json: bool,
) -> None:
    """Fetch the collateral that EVIDENCE needs, or that of a product, check it, and save one file.

    The file is what phala verify takes by --collateral, and phala collateral submit by its name.

    Example: phala collateral fetch quote.bin --out collateral.json

    Example: phala collateral fetch --tee tdx --fmspc 90c06f000000

    Example: phala collateral fetch --amd Genoa
    """
    where = Vendors(pcs, root_crl, kds)
    given = [each for each in (evidence, fmspc, amd) if each is not None]
    if len(given) != 1:
        raise Invalid(
            f"{len(given)} of EVIDENCE, --fmspc and --amd are given", mend="give exactly one"
        )
    if evidence is not None:
        data = read_bounded(evidence, ENVELOPE_BYTES_MAX, "the evidence")
        items = fetch_for(open_evidence(data)[0], where, evaluation)
    elif amd is not None:
        items = source.fetch_amd(where, amd, "VLEK" if vlek else "VCEK")
    else:
        assert fmspc is not None, "one of three is given"
        if not _FMSPC.fullmatch(fmspc) or tee is None:
            raise Invalid(
                f"--fmspc {fmspc[:40]!r} with --tee {tee} names no product of Intel's",
                mend="give 12 hex digits, and --tee sgx or --tee tdx",
            )
        items = source.fetch_intel(where, tee, fmspc, ca, number=evaluation)
    told = vendor_words.judged(items, _now(now_s))
    if told.error is not None:
        raise told.error  # it is not saved: nobody could use it
    path = out or Path("collateral.json")
    _write(path, items)
    document = {"file": str(path), **told.document}
    show_result(document, f"{told.text}\nsaved in    {path}", as_json=as_json)


@collateral.command(short_help="Say what a file of it is.")
@click.argument("file", type=click.Path(path_type=Path))
@now_option
@json_option
def show(*, file: Path, now_s: int | None, as_json: bool) -> None:
    """Check the vendor's signatures on saved collateral, and say what it is of and until when.

    Example: phala collateral show collateral.json
    """
    told = vendor_words.judged(_load(file), _now(now_s))
    if told.error is not None and not told.expired:
        raise told.error
    show_result(told.document, told.text, as_json=as_json)


@collateral.command(short_help="Bring it to a chain.")
@click.argument("file", type=click.Path(path_type=Path))
@chain_options
@json_option
def submit(*, file: Path, folder: Path | None, urls: tuple[str, ...], as_json: bool) -> None:
    """Give a chain what a vendor signed. It is free, needs no account, and counts if it is news.

    Example: phala collateral submit collateral.json
    """
    items = _load(file)
    told = vendor_words.judged(items, _now(None))
    if told.error is not None:
        raise told.error
    if "tcb_info" in items:
        items = plain(items)
    place = place_of(folder, urls)
    name, digest = submit_collateral(place.nodes[0], items)
    document = {"call": name, "extrinsic": "0x" + digest.hex(), **told.document}
    text = f"{told.text}\nsubmitted   {name}, extrinsic 0x{digest.hex()}"
    show_result(document, text, as_json=as_json)


def fetch_for(opened: Opened, where: Vendors, number: int | None) -> dict[str, bytes]:
    """What evidence needs beside what came with it.

    Raises:
        Invalid: its platform needs none, or it does not say which.
    """
    found = opened.evidence
    match found.platform:
        case PlatformCode.SGX | PlatformCode.TDX:
            need = take_apart(found).need
            assert need is not None, "Intel's needs some"
            authority = next(word for word, at in INTEL_AUTHORITIES.items() if at == need.issuer)
            tee = need.platform.word
            return source.fetch_intel(where, tee, need.product.hex(), authority, number=number)
        case PlatformCode.AZURE_TDX:
            quote = Evidence(PlatformCode.TDX, opened.collateral["td_quote"])
            return fetch_for(Opened(opened.form, quote, {}), where, number)
        case PlatformCode.SEV_SNP | PlatformCode.AZURE_SNP:
            blob = found.blob
            if found.platform == PlatformCode.AZURE_SNP:
                blob = blob[_AZURE_REPORT]
            report = decode_report(blob)
            line = line_of_cpuid(report)
            items = source.fetch_amd(where, line, report.signer)
            if "amd_key" not in opened.collateral:
                items |= source.fetch_amd_key(where, report, line)
            return items
        case _:
            raise Invalid(
                f"evidence of {PlatformCode(found.platform).word} needs no collateral of Intel's or"
                " AMD's",
                mend="verify it as it is: see phala verify --help",
            )


def _load(path: Path) -> dict[str, bytes]:
    data = read_bounded(path, COLLATERAL_BYTES_MAX, "the collateral")
    items = items_of(data, -1) if len(data) <= COLLATERAL_BYTES_MAX else {}
    if not items:
        raise Invalid(
            f"{str(path)!r} is no file of collateral",
            mend="give the file that phala collateral fetch saved",
        )
    return items


def _write(path: Path, items: dict[str, bytes]) -> None:
    """One JSON object; lists and keys in hex, all else as the vendor wrote it."""
    binary = vendor_words.BINARY
    texts = {name: item.hex() if name in binary else item.decode() for name, item in items.items()}
    try:
        path.write_text(json.dumps(texts, indent=1) + "\n")
    except OSError as error:
        raise Invalid(
            f"{path} cannot be written: {error.strerror}", mend="name a file that can be"
        ) from None


def _now(now_s: int | None) -> Moment:
    return Moment(time.time_ns() // 1_000_000 if now_s is None else now_s * 1000)
