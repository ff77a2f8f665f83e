"""Hospitals fit one model on their patients together; nobody sees a patient of another's.

A hospital sends rows by encrypted commands. They lie in this contract's state, which only the
enclave can read, and no method gives one back: what leaves is a model's accuracy, its loss while
it is fitted, predictions for rows that the asker already has, and counts.

The model is logistic regression with an L2 penalty on standardised measurements, fitted by
Newton's method (iteratively reweighted least squares). It takes no step at random, so every
replica comes to the same weights.
"""

import math
from dataclasses import dataclass, field
from operator import mul

from phat import Contract, Map, Refused, command, emit, query

MEASUREMENTS = 30
BATCH_ROWS_MAX = 100
ROWS_MAX = 5_000  # of one hospital: a fit has to end within a command's fuel
ROUNDS_MAX = 5  # of Newton's method in one command
SCORE_ROWS_MIN = 20  # an accuracy over fewer would be about single patients
PENALTY = 1.0  # on the squared weights; the intercept is free
SMALL_STEP = 1e-6  # the fit has converged


@dataclass
class Batch:
    """Patients of one hospital, as they were sent."""

    rows: list[list[float]]
    benign: list[int]  # 1 benign, 0 malignant


@dataclass
class Model:
    """`weights[0]` is the intercept; the others are per standard deviation of a measurement."""

    patients: int = 0
    rounds: int = 0
    loss: float = 0.0
    converged: bool = False
    means: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass
class Progress:
    patients: int
    rounds: int
    loss: float  # mean over patients, before the last step
    converged: bool


@dataclass
class Score:
    """Over all patients together: nothing in it is about one of them."""

    patients: int
    right: int
    accuracy: float
    missed: int  # malignant, and called benign
    false_alarms: int  # benign, and called malignant
    loss: float  # mean: how sure it was of what was wrong, and unsure of what was right


class Study(Contract):
    """Deployed with the hospitals' names and addresses: no one else may take part."""

    coordinator: str = ""  # who deployed it: may ask for scores, never sends rows
    hospitals: dict[str, str]  # address -> name
    counts: dict[str, int]  # name -> patients sent
    batches: dict[str, int]  # name -> batches sent
    rows: Map[str, Batch]  # "North/000003"
    models: Map[str, Model]  # "North", "North+South"

    def __init__(self, hospitals: dict[str, str]) -> None:
        if not 1 <= len(hospitals) <= 16:
            raise Refused("name 1 to 16 hospitals, as {name: address}")
        for name in hospitals:
            if not name.isalnum():
                raise Refused(f"{name!r} is no name of letters and digits")
        self.coordinator = self.caller or ""
        self.hospitals = {address: name for name, address in hospitals.items()}
        if len(self.hospitals) != len(hospitals):
            raise Refused("two hospitals have one address")
        self.counts = dict.fromkeys(hospitals, 0)
        self.batches = dict.fromkeys(hospitals, 0)

    @command
    def add(self, rows: list[list[float]], benign: list[int]) -> int:
        """Take in patients of the calling hospital. Returns how many it has sent by now."""
        name = self._hospital()
        if not 1 <= len(rows) <= BATCH_ROWS_MAX or len(rows) != len(benign):
            raise Refused(f"send 1 to {BATCH_ROWS_MAX} rows, and a label for each")
        _check_rows(rows)
        if any(label not in (0, 1) for label in benign):
            raise Refused("a label is 1 (benign) or 0 (malignant)")
        if self.counts[name] + len(rows) > ROWS_MAX:
            raise Refused(f"a hospital may send {ROWS_MAX} patients")
        self.rows[f"{name}/{self.batches[name]:06}"] = Batch(rows, benign)
        self.batches[name] += 1
        self.counts[name] += len(rows)
        emit("RowsAdded", hospital=name, patients=len(rows))
        return self.counts[name]

    @command
    def fit(self, hospitals: list[str], rounds: int = 3) -> Progress:
        """Take a few rounds of the fit on all patients of `hospitals`; call it until converged.

        A hospital may fit on its own patients, or on others' together with its own.
        """
        name = self._hospital()
        if name not in hospitals:
            raise Refused(f"{name} cannot fit a model without its own patients")
        if not 1 <= rounds <= ROUNDS_MAX:
            raise Refused(f"a command may take 1 to {ROUNDS_MAX} rounds")
        chosen = self._chosen(hospitals)
        rows, labels = self._training(chosen)
        key = "+".join(chosen)
        model = self.models.get(key)
        if model is None or model.patients != len(rows):
            model = _start(rows, labels)
        points = [_standardise(model, row) for row in rows]
        for _ in range(rounds):
            if not model.converged:
                _newton_step(model, points, labels)
        self.models[key] = model
        emit("Fitted", model=key, rounds=model.rounds, converged=model.converged)
        return Progress(model.patients, model.rounds, model.loss, model.converged)

    @query
    def score(self, hospitals: list[str], rows: list[list[float]], benign: list[int]) -> Score:
        """How often a model is right on patients that the asker brings."""
        self._participant()
        if len(rows) < SCORE_ROWS_MIN or len(rows) != len(benign):
            raise Refused(f"bring at least {SCORE_ROWS_MIN} patients, and a label for each")
        _check_rows(rows)
        model = self._model(hospitals)
        missed = false_alarms = 0
        loss = 0.0
        for row, label in zip(rows, benign, strict=True):
            margin = _margin(model, row)
            missed += margin >= 0 and label == 0
            false_alarms += margin < 0 and label == 1
            loss += _loss(margin, label)
        count = len(rows)
        right = count - missed - false_alarms
        return Score(count, right, right / count, missed, false_alarms, loss / count)

    @query
    def predict(self, hospitals: list[str], rows: list[list[float]]) -> list[float]:
        """The chance that each of the asker's patients has a benign tumour."""
        self._participant()
        _check_rows(rows)
        model = self._model(hospitals)
        return [_logistic(_margin(model, row)) for row in rows]

    @query
    def summary(self) -> dict[str, int]:
        """How many patients each hospital has sent."""
        return self.counts

    def _hospital(self) -> str:
        name = self.hospitals.get(self.caller or "")
        if name is None:
            raise Refused("only the hospitals named at deployment may do this")
        return name

    def _participant(self) -> None:
        if self.caller != self.coordinator and self.caller not in self.hospitals:
            raise Refused("only the hospitals and their coordinator may ask")

    def _chosen(self, hospitals: list[str]) -> list[str]:
        for name in hospitals:
            if name not in self.counts:
                raise Refused(f"{name!r} takes no part; these do: {', '.join(self.counts)}")
        return [name for name in sorted(self.counts) if name in hospitals]

    def _training(self, chosen: list[str]) -> tuple[list[list[float]], list[int]]:
        rows: list[list[float]] = []
        labels: list[int] = []
        for name in chosen:
            if not self.counts[name]:
                raise Refused(f"{name} has sent no patients yet")
            for number in range(self.batches[name]):
                batch = self.rows[f"{name}/{number:06}"]
                rows += batch.rows
                labels += batch.benign
        return rows, labels

    def _model(self, hospitals: list[str]) -> Model:
        key = "+".join(self._chosen(hospitals))
        model = self.models.get(key)
        if model is None:
            raise Refused(f"there is no model of {key or 'nobody'}: fit it first")
        return model


def _check_rows(rows: list[list[float]]) -> None:
    for at, row in enumerate(rows):
        if len(row) != MEASUREMENTS:
            raise Refused(f"row {at} has {len(row)} measurements, not {MEASUREMENTS}")
        if not all(0 <= value <= 1e6 for value in row):
            raise Refused(f"row {at} has a measurement out of 0 to 1,000,000")


def _start(rows: list[list[float]], labels: list[int]) -> Model:
    """A model that knows nothing but how common each label is."""
    count = len(rows)
    means = [sum(column) / count for column in zip(*rows, strict=True)]
    scales = []
    for column, mean in zip(zip(*rows, strict=True), means, strict=True):
        variance = sum((value - mean) ** 2 for value in column) / count
        scales.append(math.sqrt(variance) or 1.0)
    share = (sum(labels) + 1) / (count + 2)
    weights = [math.log(share / (1 - share))] + [0.0] * MEASUREMENTS
    return Model(patients=count, means=means, scales=scales, weights=weights)


def _standardise(model: Model, row: list[float]) -> list[float]:
    """The intercept's 1, then each measurement in standard deviations from the mean."""
    return [1.0] + [
        (value - mean) / scale
        for value, mean, scale in zip(row, model.means, model.scales, strict=True)
    ]


def _logistic(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    power = math.exp(x)
    return power / (1 + power)


def _margin(model: Model, row: list[float]) -> float:
    """Above 0 for benign; the farther from 0, the surer."""
    return sum(map(mul, model.weights, _standardise(model, row)))


def _loss(margin: float, label: int) -> float:
    """Minus the logarithm of the chance that the model gave to what was so."""
    return max(margin, 0.0) - margin * label + math.log1p(math.exp(-abs(margin)))


def _newton_step(model: Model, points: list[list[float]], labels: list[int]) -> None:
    size = MEASUREMENTS + 1
    gradient = [0.0] + [PENALTY * weight for weight in model.weights[1:]]
    curvature = [[0.0] * (at + 1) for at in range(size)]  # the lower triangle
    for at in range(1, size):
        curvature[at][at] = PENALTY
    loss = 0.0
    for point, label in zip(points, labels, strict=True):
        margin = sum(map(mul, model.weights, point))
        chance = _logistic(margin)
        loss += _loss(margin, label)
        miss = chance - label
        spread = chance * (1 - chance)
        for at in range(size):
            value = point[at]
            gradient[at] += miss * value
            share = spread * value
            row = curvature[at]
            curvature[at] = [have + share * other for have, other in zip(row, point)]  # noqa: B905
    step = _solve(curvature, gradient)
    model.weights = [weight - move for weight, move in zip(model.weights, step, strict=True)]
    model.loss = loss / len(points)
    model.rounds += 1
    model.converged = max(map(abs, step)) < SMALL_STEP


def _solve(lower: list[list[float]], right: list[float]) -> list[float]:
    """Cholesky: the penalty keeps the matrix positive definite."""
    size = len(right)
    factor: list[list[float]] = []
    for at in range(size):
        row: list[float] = []
        for left in range(at):
            done = sum(map(mul, row, factor[left]))
            row.append((lower[at][left] - done) / factor[left][left])
        row.append(math.sqrt(lower[at][at] - sum(value * value for value in row)))
        factor.append(row)
    middle: list[float] = []
    for at in range(size):
        done = sum(map(mul, factor[at], middle))
        middle.append((right[at] - done) / factor[at][at])
    found = [0.0] * size
    for at in reversed(range(size)):
        done = sum(factor[below][at] * found[below] for below in range(at + 1, size))
        found[at] = (middle[at] - done) / factor[at][at]
    return found
