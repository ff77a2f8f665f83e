"""GPUs' evidence through NVML: the library is NVIDIA's own, the driver under it is this test's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phala.attest import Evidence, open_evidence
from phala.attest.verdict import PlatformCode
from phala.errors import Invalid
from phala.tee.gpu import gpu_evidence
from phala.testing.p384_pki import chain, gpu_report

# What the driver's library does, as much as is asked of it. Errors are NVML's: 3 not supported.
DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct state { unsigned environment, feature, dev_tools; };
struct certificate { unsigned size, attested_size; unsigned char chain[0x1000], attested[0x1400]; };
struct report {
  unsigned has_cec, size, cec_size;
  unsigned char nonce[32], report[0x2000], cec[0x1000];
};
static unsigned from(const char *name, void *to, unsigned room) {
  FILE *file = fopen(getenv(name), "rb");
  unsigned size = file ? fread(to, 1, room, file) : 0;
  if (file) fclose(file);
  return size;
}
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return flags; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = atoi(getenv("GPUS")); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(long)(index + 1);
  return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned size) {
  snprintf(name, size, "GPU %ld of a test", (long)device);
  return 0;
}
int nvmlSystemGetConfComputeState(struct state *state) {
  state->environment = 1;
  state->feature = 1;
  state->dev_tools = getenv("DEV_TOOLS") != 0;
  return 0;
}
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, struct report *report) {
  if (getenv("UNSUPPORTED")) return 3;
  report->size = from("REPORT", report->report, sizeof report->report);
  return 0;
}
int nvmlDeviceGetConfComputeGpuCertificate(void *device, struct certificate *certificate) {
  certificate->attested_size = from("CHAIN", certificate->attested, sizeof certificate->attested);
  return 0;
}
const char *nvmlErrorString(int number) { return number == 3 ? "Not Supported" : "Unknown"; }
"""
SCRIPT = """
import json, sys
from phala.errors import PhalaError
from phala.tee.gpu import gpu_evidence
try:
    found = gpu_evidence(bytes.fromhex(sys.argv[1]))
except PhalaError as error:
    print(json.dumps({"error": type(error).__name__, "what": error.what}))
else:
    print(json.dumps({"gpus": [
        {"name": each.name, "report": each.report.hex(), "chain": each.chain.hex(),
         "confidential": each.confidential, "dev_tools": each.dev_tools} for each in found]}))
"""
NONCE = bytes(range(100, 132))


def asked(folder: Path, nonce: bytes = NONCE, **environment: str) -> dict[str, object]:
    said: dict[str, object] = json.loads(run(folder, ["-c", SCRIPT, nonce.hex()], environment))
    return said


def run(folder: Path, arguments: list[str], environment: dict[str, str]) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a driver with")
    source = folder / "driver.c"
    source.write_text(DRIVER)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)],
        check=True,
    )
    device = chain(5)
    (folder / "report").write_bytes(gpu_report(device, nonce=NONCE))
    (folder / "chain").write_bytes(device.pem)
    ended = subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),
            "REPORT": str(folder / "report"),
            "CHAIN": str(folder / "chain"),
            "GPUS": "2",
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ended.stdout


def test_each_gpu_gives_its_report_and_chain(tmp_path: Path) -> None:
    said = asked(tmp_path)

    gpus = said["gpus"]
    assert isinstance(gpus, list)
    assert [each["name"] for each in gpus] == ["GPU 1 of a test", "GPU 2 of a test"]
    report = (tmp_path / "report").read_bytes()
    for each in gpus:
        assert bytes.fromhex(each["report"]) == report
        assert bytes.fromhex(each["chain"]) == (tmp_path / "chain").read_bytes()
        assert each["confidential"]
        assert not each["dev_tools"]


def test_a_driver_with_its_tools_open_is_told(tmp_path: Path) -> None:
    gpus = asked(tmp_path, DEV_TOOLS="1")["gpus"]

    assert isinstance(gpus, list)
    assert all(each["dev_tools"] for each in gpus)


def test_a_report_that_answers_another_nonce_is_refused(tmp_path: Path) -> None:
    said = asked(tmp_path, bytes(32))

    assert said == {
        "error": "InterfaceFailed",
        "what": "the GPU's report does not say our nonce",
    }


def test_a_gpu_without_confidential_computing_is_told(tmp_path: Path) -> None:
    said = asked(tmp_path, UNSUPPORTED="1")

    assert said["error"] == "InterfaceFailed"
    assert "Not Supported" in str(said["what"])


def test_a_machine_without_gpus_is_told(tmp_path: Path) -> None:
    assert asked(tmp_path, GPUS="0")["error"] == "GpuAbsent"


def test_a_nonce_of_another_size_is_not_asked_with() -> None:
    with pytest.raises(Invalid, match="31 bytes"):
        gpu_evidence(bytes(31))


def test_phala_attest_writes_what_phala_verify_opens(tmp_path: Path) -> None:
    file = tmp_path / "gpus.json"
    arguments = ["--gpu", "--report-data", NONCE.hex(), "--out", str(file)]
    main = "from phala.cli.main import main; raise SystemExit(main())"
    said = run(tmp_path, ["-c", main, "attest", *arguments], {"DEV_TOOLS": "1"})

    assert "GPU 2 of a test: confidential mode, developers' tools on" in said
    first, second = open_evidence(file.read_bytes())
    assert first == second
    assert first.evidence == Evidence(PlatformCode.NVIDIA, (tmp_path / "report").read_bytes())
