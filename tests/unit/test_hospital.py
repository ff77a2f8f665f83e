"""The hospitals' contract, run without an enclave: what it computes, and what it never tells."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import phala.phat
from phala.phat import entry
from phala.phat.contract import address_of

FOLDER: Final = Path(__file__).parents[2] / "examples" / "hospital"
COORDINATOR, NORTH, SOUTH, STRANGER = (bytes([number]) * 32 for number in range(1, 5))
ROW = [1.0] * 30


def load_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hospital_data", FOLDER / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


data = load_data()


class Memory:
    """A host that keeps what the contract writes, for one call after another."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.sender: bytes | None = None
        self.events: list[tuple[str, Any]] = []

    def get(self, key: bytes, /) -> bytes | None:
        return self.kept.get(key)

    def set(self, key: bytes, value: bytes | None, /) -> None:
        if value is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = value

    def scan(self, prefix: bytes, start: bytes, limit: int, /) -> list[tuple[bytes, bytes]]:
        found = [key for key in sorted(self.kept) if key.startswith(prefix) and key >= start]
        return [(key, self.kept[key]) for key in found[:limit]]

    def log(self, level: int, text: str, /) -> None:
        raise AssertionError(f"the contract logs: {level} {text}")

    def emit(self, name: str, data: bytes, /) -> None:
        self.events.append((name, json.loads(data)))

    def block(self) -> tuple[int, int, bytes]:
        return 1, 1_000, bytes(32)

    def caller(self) -> bytes | None:
        return self.sender

    def blake2_256(self, data: bytes, /) -> bytes:
        raise AssertionError(data)

    def sha2_256(self, data: bytes, /) -> bytes:
        raise AssertionError(data)


class Study:
    """The contract, deployed for two hospitals."""

    def __init__(self, owner: type[phala.phat.Contract]) -> None:
        self.owner = owner
        self.host = Memory()
        hospitals = {"North": address_of(NORTH), "South": address_of(SOUTH)}
        self.call("instantiate", COORDINATOR, "", hospitals=hospitals)

    def call(self, kind: entry.Call, who: bytes | None, method: str, **arguments: Any) -> Any:
        self.host.sender = who
        request = json.dumps({"method": method, "args": arguments}).encode()
        return json.loads(entry.call(self.owner, self.host, kind, request))

    def command(self, who: bytes, method: str, **arguments: Any) -> Any:
        return self.call("command", who, method, **arguments)

    def query(self, who: bytes | None, method: str, **arguments: Any) -> Any:
        return self.call("query", who, method, **arguments)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    monkeypatch.setitem(sys.modules, "phat", phala.phat)
    owner = entry.load(entry.compile_source((FOLDER / "model.py").read_bytes()))
    yield Study(owner)
    sys.modules.pop("contract", None)


def send_all(study: Study) -> Any:
    division = data.divide(data.load_patients())
    for who, patients in ((NORTH, division.north), (SOUTH, division.south)):
        for batch in data.batches(patients):
            study.command(who, "add", **batch)
    return division


def held_out(division: Any) -> dict[str, Any]:
    return {
        "rows": [list(patient.measurements) for patient in division.held_out],
        "benign": [patient.benign for patient in division.held_out],
    }


def fit(study: Study, who: bytes, hospitals: list[str]) -> Any:
    for _ in range(8):
        progress = study.command(who, "fit", hospitals=hospitals)
        if progress["converged"]:
            return progress
    raise AssertionError(progress)


# ---- the patients


def test_the_file_holds_the_published_patients() -> None:
    patients = data.load_patients()

    assert len(patients) == 569
    assert sum(patient.benign for patient in patients) == 357
    assert {len(patient.measurements) for patient in patients} == {30}


def test_the_division_loses_and_repeats_no_patient() -> None:
    patients = data.load_patients()
    division = data.divide(patients)

    parts = (division.north, division.south, division.held_out)
    assert sorted(map(repr, sum(parts, ()))) == sorted(map(repr, patients))
    assert [len(part) for part in parts] == [190, 190, 189]
    largest = max(patient.measurements[0] for patient in division.north)
    assert largest <= min(patient.measurements[0] for patient in division.south)
    assert data.divide(patients) == division


def test_every_batch_fits_a_size_class_below_the_largest() -> None:
    division = data.divide(data.load_patients())

    for batch in data.batches(division.north) + data.batches(division.south):
        assert len(json.dumps(batch)) < 16_000


# ---- the model


def test_both_hospitals_together_make_a_model_that_knows_most_patients(study: Study) -> None:
    division = send_all(study)
    progress = fit(study, SOUTH, ["North", "South"])

    score = study.query(NORTH, "score", hospitals=["North", "South"], **held_out(division))

    assert progress["patients"] == 380
    assert score["patients"] == 189
    assert score["right"] == 189 - score["missed"] - score["false_alarms"]
    assert score["accuracy"] == score["right"] / 189
    assert score["accuracy"] > 0.93


def test_the_loss_falls_until_nothing_moves(study: Study) -> None:
    send_all(study)

    losses = [study.command(NORTH, "fit", hospitals=["North"], rounds=1) for _ in range(12)]

    values = [progress["loss"] for progress in losses]
    assert values == sorted(values, reverse=True)
    assert losses[-1]["converged"]
    assert losses[-1] == losses[-2]


def test_the_gradient_is_zero_where_the_fit_ends(study: Study) -> None:
    """An independent statement of the optimum: no weight gains by moving."""
    send_all(study)
    fit(study, NORTH, ["North"])
    model = json.loads(study.host.kept[b"models/North"])

    division = data.divide(data.load_patients())
    for at in (0, 1, 17, 30):
        total = model["weights"][at] if at else 0.0
        for patient in division.north:
            point = [1.0] + [
                (value - mean) / scale
                for value, mean, scale in zip(
                    patient.measurements, model["means"], model["scales"], strict=True
                )
            ]
            margin = sum(w * x for w, x in zip(model["weights"], point, strict=True))
            chance = 1 / (1 + 2.718281828459045**-margin)
            total += (chance - patient.benign) * point[at]
        assert abs(total) < 1e-5


def test_new_patients_begin_the_fit_anew(study: Study) -> None:
    send_all(study)
    fit(study, NORTH, ["North"])

    study.command(NORTH, "add", rows=[ROW], benign=[1])

    assert study.command(NORTH, "fit", hospitals=["North"], rounds=1)["rounds"] == 1


# ---- what nobody is told


def test_no_answer_to_anybody_holds_a_patient(study: Study) -> None:
    division = send_all(study)
    fit(study, NORTH, ["North"])
    told = [
        study.query(NORTH, "summary"),
        study.query(NORTH, "score", hospitals=["North"], **held_out(division)),
        study.query(SOUTH, "predict", hospitals=["North"], rows=[ROW]),
        study.command(NORTH, "fit", hospitals=["North"]),
        study.host.events,
    ]

    text = json.dumps(told)
    for patient in (*division.north[:20], *division.south[:20]):
        for value in patient.measurements:
            if value > 10 and value != int(value):
                assert str(value) not in text


@pytest.mark.parametrize(
    ("who", "method", "arguments"),
    [
        (STRANGER, "add", {"rows": [ROW], "benign": [1]}),
        (COORDINATOR, "add", {"rows": [ROW], "benign": [1]}),
        (STRANGER, "fit", {"hospitals": ["North"]}),
        (SOUTH, "fit", {"hospitals": ["North"]}),
        (NORTH, "fit", {"hospitals": ["North", "East"]}),
        (NORTH, "fit", {"hospitals": ["North"]}),  # no patients yet
        (NORTH, "fit", {"hospitals": ["North"], "rounds": 100}),
        (NORTH, "add", {"rows": [], "benign": []}),
        (NORTH, "add", {"rows": [ROW] * 101, "benign": [1] * 101}),
        (NORTH, "add", {"rows": [ROW[:29]], "benign": [1]}),
        (NORTH, "add", {"rows": [ROW], "benign": [2]}),
        (NORTH, "add", {"rows": [ROW], "benign": []}),
        (NORTH, "add", {"rows": [[-1.0, *ROW[1:]]], "benign": [1]}),
        (NORTH, "add", {"rows": [[1e300, *ROW[1:]]], "benign": [1]}),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    study: Study, who: bytes, method: str, arguments: dict[str, Any]
) -> None:
    before = dict(study.host.kept)

    with pytest.raises(entry.Failed) as refused:
        study.command(who, method, **arguments)

    assert refused.value.kind == "refused"
    assert study.host.kept == before


@pytest.mark.parametrize("who", [STRANGER, None])
def test_strangers_get_no_score_and_no_prediction(study: Study, who: bytes | None) -> None:
    division = send_all(study)
    fit(study, NORTH, ["North"])

    for method, arguments in (("score", held_out(division)), ("predict", {"rows": [ROW]})):
        with pytest.raises(entry.Failed, match="only the hospitals"):
            study.query(who, method, hospitals=["North"], **arguments)


def test_a_score_is_never_about_single_patients(study: Study) -> None:
    send_all(study)
    fit(study, NORTH, ["North"])

    with pytest.raises(entry.Failed, match="at least 20"):
        study.query(NORTH, "score", hospitals=["North"], rows=[ROW] * 19, benign=[1] * 19)
