"""The patients of `patients.csv`, divided as the demo needs them."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PATIENTS: Final = Path(__file__).with_name("patients.csv")
HELD_OUT_SEED: Final = 3  # any number does; it was chosen before any result was seen
BATCH_ROWS: Final = 48  # with its labels well under the 16 KiB size class


@dataclass(frozen=True, slots=True)
class Patient:
    measurements: tuple[float, ...]  # 30; the first is the mean radius
    benign: int  # 1 benign, 0 malignant


@dataclass(frozen=True, slots=True)
class Division:
    """`north` has the smaller mean radii, `south` the larger; a third was held out before."""

    north: tuple[Patient, ...]
    south: tuple[Patient, ...]
    held_out: tuple[Patient, ...]


def load_patients(path: Path = PATIENTS) -> tuple[Patient, ...]:
    """The file's rows: a header line, then 30 measurements and the label in each."""
    with path.open(newline="") as lines:
        _header, *rows = csv.reader(lines)
    return tuple(Patient(tuple(map(float, row[:-1])), int(row[-1])) for row in rows)


def divide(patients: tuple[Patient, ...], *, seed: int = HELD_OUT_SEED) -> Division:
    """Hold out a third of each label, then halve the rest by mean radius."""
    chance = random.Random(seed)  # noqa: S311 - the same division in every run
    held_out: list[Patient] = []
    training: list[Patient] = []
    for label in (0, 1):
        group = [patient for patient in patients if patient.benign == label]
        chance.shuffle(group)
        held_out += group[: len(group) // 3]
        training += group[len(group) // 3 :]
    training.sort(key=lambda patient: patient.measurements)
    half = len(training) // 2
    return Division(tuple(training[:half]), tuple(training[half:]), tuple(held_out))


def batches(
    patients: tuple[Patient, ...], *, size: int = BATCH_ROWS
) -> list[dict[str, list[object]]]:
    """The arguments of each `add` that sends them."""
    return [
        {
            "rows": [list(patient.measurements) for patient in patients[start : start + size]],
            "benign": [patient.benign for patient in patients[start : start + size]],
        }
        for start in range(0, len(patients), size)
    ]
