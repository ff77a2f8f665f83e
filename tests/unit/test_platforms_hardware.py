"""Hardware platforms, on kernels that behave as the real ones: evidence, races, refusals."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from phala.attest.cbor import decode as decode_cbor
from phala.errors import Invalid, PhalaError
from phala.tee.configfs import REPORTS, InterfaceBusy, RequestRaced, Tsm
from phala.tee.detect import (
    DMI_VENDOR,
    DSTACK,
    SEV_DEVICE,
    TDX_DEVICE,
    PlatformAbsent,
    detect_platform,
)
from phala.tee.evidence import EvidenceUnknown, NotOurs, ProviderWrong, SealingAbsent
from phala.tee.gramine import AttestationOff, GraminePlatform, SealingKeyAbsent
from phala.tee.nitro import NitroPlatform, attestation_request
from phala.tee.ops import (
    InterfaceAbsent,
    InterfaceClosed,
    InterfaceFailed,
    KernelOps,
    TooLarge,
)
from phala.tee.platform import ReportData
from phala.tee.sev import SevPlatform
from phala.tee.tdx import TdxPlatform
from phala.testing.amd_pki import SimulatedAmd
from phala.testing.intel_pki import SimulatedIntel
from phala.testing.kernel import FakeGramine, FakeKernel, FakeNitro
from phala.testing.p384_pki import chain, nitro_document
from phala.testing.platform import check_platform

TDX = SimulatedIntel(tdx=True)
SGX = SimulatedIntel(tdx=False)
AMD = SimulatedAmd()
OURS = ReportData(bytes(range(64)))


def tdx_quote(said: bytes) -> bytes:
    return TDX.quote(report_data=said)


def sgx_quote(said: bytes) -> bytes:
    return SGX.quote(report_data=said)


def sev_report(said: bytes) -> bytes:
    return AMD.report(report_data=said)


def nitro_says(said: bytes) -> bytes:
    return nitro_document(chain(5), changes={"user_data": said})


def tdx_kernel() -> FakeKernel:
    return FakeKernel(report=tdx_quote)


def sev_kernel(*, floor: int = 0) -> FakeKernel:
    return FakeKernel("sev_guest", sev_report, auxiliary=b"table", level_floor=floor)


def tsm(kernel: FakeKernel, pauses: list[float] | None = None) -> Tsm:
    return Tsm(kernel, pause=(pauses if pauses is not None else []).append)


def test_tdx() -> None:
    check_platform(lambda: TdxPlatform(tsm(tdx_kernel())))


@pytest.mark.parametrize("floor", [0, 2])
def test_sev(floor: int) -> None:
    check_platform(lambda: SevPlatform(tsm(sev_kernel(floor=floor))))


def test_gramine() -> None:
    check_platform(lambda: GraminePlatform(FakeGramine(sgx_quote)))


def test_a_tdx_quote_of_either_version_names_its_registers() -> None:
    def version_5(said: bytes) -> bytes:
        quote = tdx_quote(said)
        return b"\5" + quote[1:48] + b"\2\0" + (584).to_bytes(4, "little") + quote[48:]

    for report in (tdx_quote, version_5):
        found = TdxPlatform(tsm(FakeKernel(report=report))).measurements

        assert found["mrtd"] == b"\x33" * 48
        assert [found[f"rtmr{index}"] for index in range(4)] == [
            b"\1" * 48,
            b"\2" * 48,
            b"\3" * 48,
            bytes(48),
        ]


def test_registers_are_those_of_the_newest_quote() -> None:
    register = [b"\1" * 48]
    kernel = FakeKernel(
        report=lambda said: TDX.quote(report_data=said, registers=(*register * 3, bytes(48)))
    )
    platform = TdxPlatform(tsm(kernel))
    assert platform.measurements["rtmr2"] == b"\1" * 48

    register[0] = b"\7" * 48
    platform.quote(OURS)

    assert platform.measurements["rtmr2"] == b"\7" * 48


def test_a_sev_report_comes_with_the_hosts_table() -> None:
    platform = SevPlatform(tsm(sev_kernel()))

    assert platform.quote(OURS)[1184:] == b"table"


@pytest.mark.parametrize("busy", [1, 2, 7, 49])
def test_a_busy_kernel_is_asked_again(busy: int) -> None:
    kernel, pauses = tdx_kernel(), list[float]()
    kernel.busy = busy

    assert bytes(OURS) in TdxPlatform(tsm(kernel, pauses)).quote(OURS)
    assert len(pauses) == busy
    assert not kernel.requests


def test_a_kernel_that_stays_busy_is_given_up() -> None:
    kernel = tdx_kernel()
    kernel.failures["outblob"] = errno.EBUSY

    with pytest.raises(InterfaceBusy, match="50 times"):
        TdxPlatform(tsm(kernel)).quote(OURS)
    assert not kernel.requests


@pytest.mark.parametrize("races", [1, 2])
def test_a_race_is_seen_by_the_counter_and_asked_again(races: int) -> None:
    kernel = tdx_kernel()
    kernel.races = races

    assert bytes(OURS) in TdxPlatform(tsm(kernel)).quote(OURS)
    assert kernel.asked.count("outblob") == races + 1
    assert kernel.asked.count("mkdir") == kernel.asked.count("rmdir") == races + 1


def test_three_races_are_an_error() -> None:
    kernel = tdx_kernel()
    kernel.races = 3

    with pytest.raises(RequestRaced, match="3 requests"):
        TdxPlatform(tsm(kernel)).quote(OURS)
    assert not kernel.requests


@pytest.mark.parametrize(
    ("where", "number", "kind"),
    [
        ("mkdir", errno.EPERM, InterfaceClosed),
        ("mkdir", errno.ENXIO, InterfaceAbsent),
        ("provider", errno.EIO, InterfaceFailed),
        ("generation", errno.EACCES, InterfaceClosed),
        ("inblob", errno.EINVAL, InterfaceFailed),
        ("outblob", errno.EIO, InterfaceFailed),
        ("outblob", errno.ETIMEDOUT, InterfaceFailed),
        ("outblob", errno.EFBIG, TooLarge),
    ],
)
def test_a_failed_call_is_a_typed_error_and_leaves_no_request(
    where: str, number: int, kind: type[PhalaError]
) -> None:
    kernel = tdx_kernel()
    kernel.failures[where] = number

    with pytest.raises(kind):
        TdxPlatform(tsm(kernel)).quote(OURS)
    assert not kernel.requests


def test_an_outblob_above_the_kernels_bound_or_ours_is_refused() -> None:
    for kernel in (
        FakeKernel(report=tdx_quote, size_max=1000),
        FakeKernel(report=lambda said: tdx_quote(said) + bytes(32 * 1024)),
    ):
        with pytest.raises(TooLarge, match="outblob"):
            TdxPlatform(tsm(kernel)).quote(OURS)
        assert not kernel.requests


def test_what_is_no_number_is_no_generation() -> None:
    class Odd(FakeKernel):
        def _value(self, path: Path) -> bytes:
            return b"many\n" if path.name == "generation" else super()._value(path)

    with pytest.raises(InterfaceFailed, match="no number"):
        TdxPlatform(tsm(Odd(report=tdx_quote))).quote(OURS)


@pytest.mark.parametrize(
    ("make", "report"),
    [(TdxPlatform, tdx_quote), (SevPlatform, sev_report)],
)
def test_evidence_of_another_request_is_refused(
    make: Callable[[Tsm], TdxPlatform | SevPlatform], report: Callable[[bytes], bytes]
) -> None:
    provider = "tdx_guest" if make is TdxPlatform else "sev_guest"
    kernel = FakeKernel(provider, lambda _said: report(b"\xee" * 64))

    with pytest.raises(NotOurs, match="eeee"):
        make(tsm(kernel)).quote(OURS)
    assert not kernel.requests


def test_another_provider_is_refused() -> None:
    with pytest.raises(ProviderWrong, match="'sev_guest', not from 'tdx_guest'"):
        TdxPlatform(tsm(sev_kernel())).quote(OURS)
    with pytest.raises(ProviderWrong, match="'tdx_guest', not from 'sev_guest'"):
        SevPlatform(tsm(tdx_kernel())).quote(OURS)


@pytest.mark.parametrize("head", [b"\xd2\x84\x43", b"\xd8\x3d\xd2\x84", b"\x84\x43\xa1"])
def test_a_dice_quote_is_told_and_refused(head: bytes) -> None:
    kernel = FakeKernel(report=lambda said: head + said + bytes(9000))

    with pytest.raises(EvidenceUnknown, match="DICE"):
        TdxPlatform(tsm(kernel)).quote(OURS)


@pytest.mark.parametrize("quote", [b"", b"\4", sgx_quote(OURS), tdx_quote(OURS)[:600]])
def test_what_is_no_tdx_quote_is_refused(quote: bytes) -> None:
    with pytest.raises(EvidenceUnknown, match="no TDX quote"):
        TdxPlatform(tsm(FakeKernel(report=lambda _said: quote))).quote(OURS)


@pytest.mark.parametrize("report", [b"", sev_report(OURS)[:-1], b"\1" + sev_report(OURS)[1:]])
def test_what_is_no_sev_report_is_refused(report: bytes) -> None:
    with pytest.raises(EvidenceUnknown, match="no report"):
        SevPlatform(tsm(FakeKernel("sev_guest", lambda _said: report))).quote(OURS)


@pytest.mark.parametrize(
    "platform", [TdxPlatform(Tsm(tdx_kernel())), SevPlatform(Tsm(tdx_kernel()))]
)
def test_what_cannot_seal_says_so(platform: TdxPlatform | SevPlatform) -> None:
    assert not platform.seals
    with pytest.raises(SealingAbsent, match="no key"):
        platform.seal(b"secret", label=b"identity")
    with pytest.raises(SealingAbsent, match="no key"):
        platform.unseal(b"sealed", label=b"identity")


def test_a_quote_of_another_thread_is_asked_again() -> None:
    assert bytes(OURS) in GraminePlatform(FakeGramine(sgx_quote, races=2)).quote(OURS)
    with pytest.raises(NotOurs):
        GraminePlatform(FakeGramine(sgx_quote, races=3)).quote(OURS)


def test_gramine_names_both_measurements() -> None:
    found = GraminePlatform(FakeGramine(sgx_quote)).measurements

    assert found == {"mrenclave": b"\x33" * 32, "mrsigner": b"\x44" * 32}


def test_gramine_without_attestation_is_refused() -> None:
    with pytest.raises(AttestationOff, match="'none', not 'dcap'"):
        GraminePlatform(FakeGramine(sgx_quote, word="none")).quote(OURS)


def test_gramine_without_a_sealing_key_does_not_seal() -> None:
    with pytest.raises(SealingKeyAbsent, match="0 bytes"):
        GraminePlatform(FakeGramine(sgx_quote, key=b"")).seal(b"secret", label=b"identity")


def test_another_enclave_does_not_unseal() -> None:
    sealed = GraminePlatform(FakeGramine(sgx_quote)).seal(b"secret", label=b"identity")

    with pytest.raises(Invalid, match="do not open"):
        GraminePlatform(FakeGramine(sgx_quote, key=b"o" * 16)).unseal(sealed, label=b"identity")


def test_nitro() -> None:
    check_platform(lambda: NitroPlatform(FakeNitro(nitro_says)))


def test_a_nitro_document_names_the_registers_of_its_image() -> None:
    found = NitroPlatform(FakeNitro(nitro_says)).measurements

    assert found == {"pcr0": b"\5" * 48, "pcr1": b"\6" * 48, "pcr2": b"\7" * 48}


def test_the_request_to_the_security_module_is_what_aws_documents() -> None:
    asked = decode_cbor(attestation_request(OURS))

    assert asked == {"Attestation": {"user_data": OURS, "nonce": None, "public_key": None}}


def test_a_refusal_of_the_security_module_is_told() -> None:
    with pytest.raises(InterfaceFailed, match="InternalError"):
        NitroPlatform(FakeNitro(nitro_says, refusal="InternalError")).quote(OURS)
    with pytest.raises(InterfaceClosed, match="EACCES"):
        NitroPlatform(FakeNitro(nitro_says, failure=errno.EACCES)).quote(OURS)


@pytest.mark.parametrize(
    "answer", [b"", b"\xa0", b"\xa1\x6bAttestation\xa0", b"\x80", b"\xff" * 5000, bytes(9)]
)
def test_an_answer_that_is_no_document_is_told(answer: bytes) -> None:
    with pytest.raises(EvidenceUnknown, match="no document"):
        NitroPlatform(FakeNitro(nitro_says, answer=answer)).quote(OURS)


@pytest.mark.parametrize("document", [b"", b"\x84\1\2\3\4", b"\x84\x40\xa0\x41\xa0\x40"])
def test_a_document_of_another_form_is_told(document: bytes) -> None:
    with pytest.raises(EvidenceUnknown, match="no attestation document"):
        NitroPlatform(FakeNitro(lambda _said: document)).quote(OURS)


def test_a_nitro_document_of_another_request_is_refused() -> None:
    with pytest.raises(NotOurs):
        NitroPlatform(FakeNitro(lambda _said: nitro_says(b"\xee" * 64))).quote(OURS)


def test_a_register_is_extended_and_the_next_quote_is_asked_anew() -> None:
    kernel = tdx_kernel()
    kernel.registers = {"rtmr3:sha384": bytes(48)}
    platform = TdxPlatform(tsm(kernel))
    digest = hashlib.sha384(b"what was started").digest()

    platform.extend(3, digest)

    assert kernel.registers["rtmr3:sha384"] == hashlib.sha384(bytes(48) + digest).digest()


@pytest.mark.parametrize(("register", "size"), [(0, 48), (1, 48), (4, 48), (3, 32), (2, 0)])
def test_what_is_no_register_of_software_is_not_extended(register: int, size: int) -> None:
    with pytest.raises(Invalid, match="register"):
        TdxPlatform(tsm(tdx_kernel())).extend(register, bytes(size))


def test_a_kernel_without_registers_is_told() -> None:
    with pytest.raises(InterfaceAbsent, match="rtmr3"):
        TdxPlatform(tsm(tdx_kernel())).extend(3, bytes(48))


def gramine_folder(folder: Path, said: bytes) -> GraminePlatform:
    (folder / "keys").mkdir()
    (folder / "attestation_type").write_bytes(b"dcap")
    (folder / "user_report_data").write_bytes(bytes(64))
    (folder / "quote").write_bytes(sgx_quote(said))
    (folder / "keys" / "_sgx_mrenclave").write_bytes(b"k" * 16)
    return GraminePlatform(KernelOps(), root=folder)


def test_gramines_files_are_read_and_written_as_files(tmp_path: Path) -> None:
    platform = gramine_folder(tmp_path, OURS)

    assert platform.quote(OURS) == sgx_quote_of(tmp_path)
    assert (tmp_path / "user_report_data").read_bytes() == OURS
    sealed = platform.seal(b"secret", label=b"identity")
    assert platform.unseal(sealed, label=b"identity") == b"secret"


def sgx_quote_of(folder: Path) -> bytes:
    return (folder / "quote").read_bytes()


def test_a_quote_that_lies_there_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotOurs):
        gramine_folder(tmp_path, b"\xee" * 64).quote(OURS)


def test_a_missing_file_of_gramines_is_told(tmp_path: Path) -> None:
    with pytest.raises(InterfaceAbsent, match="attestation_type"):
        GraminePlatform(KernelOps(), root=tmp_path).quote(OURS)


def test_the_platform_is_found() -> None:
    assert isinstance(detect_platform(FakeGramine(sgx_quote)), GraminePlatform)
    assert isinstance(detect_platform(FakeNitro(nitro_says)), NitroPlatform)
    for kernel, kind in ((tdx_kernel(), TdxPlatform), (sev_kernel(), SevPlatform)):
        found = detect_platform(kernel)
        assert isinstance(found, kind)
        assert not kernel.requests
        assert bytes(OURS) in found.quote(OURS)


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        (None, b"", "no trusted hardware"),
        (TDX_DEVICE, b"", "Intel TDX.*mount -t configfs"),
        (SEV_DEVICE, b"", "AMD SEV-SNP.*6.7"),
        (DSTACK[2], b"", "dstack.*into the container"),
        (DMI_VENDOR, b"Microsoft Corporation\n", "Azure"),
        (DMI_VENDOR, b"Somebody\n", "no trusted hardware"),
    ],
)
def test_what_is_missing_is_told(path: Path | None, data: bytes, words: str) -> None:
    files = {} if path is None else {path: data}

    with pytest.raises(PlatformAbsent, match=words):
        detect_platform(FakeKernel(mounted=False, files=files))


def test_a_kernel_without_a_driver_or_with_an_unknown_one_is_told() -> None:
    with pytest.raises(InterfaceAbsent, match=r"ENXIO.*load the guest's driver"):
        detect_platform(FakeKernel(None))
    kernel = FakeKernel("arm_cca_guest")
    with pytest.raises(EvidenceUnknown, match="arm_cca_guest"):
        detect_platform(kernel)
    assert not kernel.requests


def test_the_fake_kernel_behaves() -> None:
    kernel, entry = tdx_kernel(), REPORTS / "one"
    assert not kernel.exists(entry / "inblob")

    kernel.mkdir(entry)

    assert kernel.exists(entry / "inblob")
    with pytest.raises(OSError, match="Invalid"):
        list(kernel.read(entry / "outblob"))
    with pytest.raises(OSError, match="Invalid"):
        kernel.write(entry / "inblob", bytes(65))
    with pytest.raises(OSError, match="exists"):
        kernel.mkdir(entry)
    kernel.write(entry / "inblob", OURS)
    assert b"".join(kernel.read(entry / "generation")) == b"1\n"
    assert len(list(kernel.read(entry / "outblob"))) > 2
    kernel.rmdir(entry)
    with pytest.raises(OSError, match="No such file"):
        kernel.write(entry / "inblob", OURS)
