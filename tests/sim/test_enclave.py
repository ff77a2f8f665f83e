from pathlib import Path

import pytest

from phala.testing.determinism import check_deterministic


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_replicas_agree_whatever_carriers_and_kills_do_to_them(seed: int) -> None:
    check_deterministic(Path(__file__).with_name("enclave_run.py"), str(seed))
