"""The baseline of the paper's technical validation: is there turbulence in a cell, by the column of air above it?

A small network reads seven profiles and answers yes or no. It is measured on samples that it was not trained on, and
the question is which: upstream they are drawn at random, so that a held-out cell has neighbours of the same day among
those it was trained on, which share its weather and often its report. Here whole days are held out, and what the random
draw lends is measured beside.

With TP, FP, TN, FN the counts of hits, false alarms, quiet cells told to be so, and misses:

    accuracy = (TP + TN) / all      PoD = TP / (TP + FN)      POFD = FP / (FP + TN)      FAR = FP / (TP + FP)
    F1 = 2 TP / (2 TP + FP + FN)    skill = PoD - POFD

What upstream prints as FAR is POFD. Intervals are quantiles over days drawn again with replacement, for cells of one
day are no separate evidence.

Shapes: S samples, Z levels, K features, D days, R replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Labels = NDArray[np.bool_]
Metrics = dict[str, tuple[float, float, float]]
"""Name to value and the ends of its interval."""

FEATURES = ("T", "U", "V", "OMEGA", "RH", "H", "PL")
"""In the order of data_loader.py, lines 18-24."""

LEFT_OUT = ("H", "PL")
"""What the published loader of all bands together forgets: data_loader.py, lines 34-56."""

BANDS = ("low", "med", "high")
WIDTHS = (100, 60, 60, 40, 20)
"""Hidden layers: neuralnet/TurbulenceNN.py, lines 29-42."""


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """How the network learns and how it is measured."""

    band: Literal["all", "low", "med", "high"] = setting("all", "Band", "Whose samples: one band's, or all together.")
    held_out: Literal["days", "random"] = setting(
        "days", "Held out", "days: whole days, as the dataset says. random: single samples, as was published."
    )
    keep_by: Literal["validation", "test"] = setting(
        "validation",
        "Best epoch by",
        "validation: some training samples pick the best epoch. test: the held-out ones do, as was published.",
    )
    left_out: bool = setting(False, "Leave out H and PL", "Whether they are forgotten, as was published.")
    epochs: int = setting(
        100, "Epochs", "Passes over the training samples, 1 to 10000; 100 published.", ge=1, le=10_000
    )
    batch_size: int = setting(50, "Batch", "Samples of a step, 1 to 100000; published: 50.", ge=1, le=100_000)
    learning_rate: float = setting(1e-3, "Learning rate", "Of Adam, above 0 to 1; published: 0.001.", gt=0, le=1)
    replicates: int = setting(1000, "Replicates", "Draws of days for the intervals, 20 to 100000.", ge=20, le=100_000)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Samples in memory.

    Attributes:
        features: (S, K), not-a-number where the air has no value.
        turbulent: (S,).
        day, band, row, column: (S,) where and when.
        test: (S,) whether it is held out.
        shape: rows and columns of the grid.
    """

    features: Singles
    turbulent: Labels
    day: NDArray[np.int64]
    band: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    test: Labels
    shape: tuple[int, int]


def baseline(groups: Mapping[str, "xr.Dataset"], seed: int, config: BaselineConfig | None = None) -> Metrics:
    """Train the network, and measure it beside a climatology and a logistic regression.

    Args:
        groups: "training" and "grids" of the dataset, opened; decoded or not.
        seed: of the network's first weights, of random draws and of the intervals.
        config: None: the published network, measured on whole days.

    Returns:
        "mlp_accuracy", "logistic_f1", "climatology_pod", ...; "samples", "test_samples", "turbulent_share"; and what
        `leakage` finds. Each with the ends of its interval of 95 %, equal to the value where none is drawn.

    Raises:
        InputError: there are too few samples or days to hold some out.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/neuralnet/train_TurbulenceNN.py and TurbulenceNN.py. Differs by
        default: whole days are held out, validation samples pick the best epoch, not-a-number becomes the mean.
    """
    config = config or BaselineConfig()
    samples = samples_of(groups, config, seed)
    train, test = ~samples.test, samples.test
    x = normalised(samples.features, train)
    said = {
        "mlp": _network(x, samples, config, seed) >= 0.5,
        "logistic": logistic(x[train], samples.turbulent[train])(x[test]) >= 0.5,
        "climatology": climatology(samples)[test] >= samples.turbulent[train].mean(),
    }
    metrics: Metrics = {}
    for name, answers in said.items():
        measured = scores(answers, samples.turbulent[test], samples.day[test], config.replicates, seed)
        metrics |= {f"{name}_{key}": value for key, value in measured.items()}
    for key, number in (
        ("samples", len(x)),
        ("test_samples", int(test.sum())),
        ("test_days", len(np.unique(samples.day[test]))),
        ("turbulent_share", float(samples.turbulent.mean())),
    ):
        metrics[key] = (float(number), float(number), float(number))
    return {**metrics, **leakage(samples, seed)}


def features_of(training: "xr.Dataset", bands: Sequence[int], *, left_out: bool) -> tuple[Singles, Singles]:
    """Features (S, K) and labels (S,) of some bands, one band after another, profile after profile.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/neuralnet/data_loader.py: lines 12-31 of one band, 34-56 of all.
    """
    of_band = np.asarray(training["band"].values, np.int64)
    order = np.concatenate([np.flatnonzero(of_band == band) for band in bands])
    names = [name for name in FEATURES if not (left_out and name in LEFT_OUT)]
    features = np.concatenate([np.asarray(training[name].values, np.float32)[order] for name in names], axis=1)
    return features, np.asarray(training["TURBULENCE"].values, np.float32)[order]


def samples_of(groups: Mapping[str, "xr.Dataset"], config: BaselineConfig, seed: int) -> Samples:
    """The samples that a configuration asks for.

    Raises:
        InputError: there are no columns, or one side of the split is empty or of one class.
    """
    if "training" not in groups:
        raise InputError("the dataset has no training samples; name MERRA-2 files in `columns` and prepare it again.")
    training, grids = groups["training"], groups["grids"]
    bands = [BANDS.index(config.band)] if config.band != "all" else list(range(len(BANDS)))
    features, label = features_of(training, bands, left_out=config.left_out)
    of_band = np.asarray(training["band"].values, np.int64)
    order = np.concatenate([np.flatnonzero(of_band == band) for band in bands])
    day = np.asarray(training["time"].values)
    day = day.astype("datetime64[D]").astype(np.int64) if day.dtype.kind == "M" else day.astype(np.int64)
    test = np.asarray(training["split"].values, np.int64)[order] == 1
    if config.held_out == "random":
        test = _random_quarter(len(order), float(test.mean()) if test.any() else 0.25, seed)
    turbulent = label == 1
    for name, side in (("trained on", ~test), ("held out", test)):
        if len(np.unique(turbulent[side])) < 2:
            raise InputError(
                f"of {len(order)} samples, {int(side.sum())} are {name}, and not both classes are among them; prepare "
                "more days."
            )
    return Samples(
        features=features,
        turbulent=turbulent,
        day=day[order],
        band=of_band[order],
        row=np.asarray(training["row"].values, np.int64)[order],
        column=np.asarray(training["column"].values, np.int64)[order],
        test=test,
        shape=(grids.sizes["lat"], grids.sizes["lon"]),
    )


def _random_quarter(count: int, share: float, seed: int) -> Labels:
    test = np.zeros(count, bool)
    test[np.random.default_rng(seed).permutation(count)[: max(1, round(share * count))]] = True
    return test


def normalised(features: Singles, train: Labels) -> Singles:
    """Features as distances from the mean of the training samples, in their deviations; what is missing is at the mean.

    Args:
        features: (S, K).
        train: (S,) whose mean and deviation.

    Returns:
        (S, K). A feature that never changes is zero.
    """
    known = np.isfinite(features)
    count = np.maximum(known[train].sum(0), 1)
    there = np.where(known, features, 0).astype(np.float64)
    mean = there[train].sum(0) / count
    off = np.where(known, there - mean, 0)
    deviation = np.sqrt((off[train] ** 2).sum(0) / count)
    return np.asarray(off / np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1), deviation, np.inf), np.float32)


def network(inputs: int) -> torch.nn.Sequential:
    """The published network: five hidden layers with leaky rectifiers, and a sigmoid at the end.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/neuralnet/TurbulenceNN.py, lines 29-42.
    """
    layers: list[torch.nn.Module] = []
    for width in WIDTHS:
        layers += [torch.nn.Linear(inputs, width), torch.nn.LeakyReLU()]
        inputs = width
    return torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 1), torch.nn.Sigmoid())


def _network(x: Singles, samples: Samples, config: BaselineConfig, seed: int) -> Singles:
    """Train the network; what it says of the held-out samples."""
    rng = np.random.default_rng(seed)
    train = rng.permutation(np.flatnonzero(~samples.test))
    judge = np.flatnonzero(samples.test)
    if config.keep_by == "validation":
        # Whole days again: a validation of neighbouring cells would pick the epoch that remembers best.
        days = rng.permutation(np.unique(samples.day[train]))
        picked = np.isin(samples.day[train], days[: max(1, len(days) // 5)])
        if picked.all() or config.held_out == "random":
            picked = np.arange(len(train)) < max(1, len(train) // 5)
        train, judge = train[~picked], train[picked]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(x.shape[1])
    fit(model, x[train], samples.turbulent[train], x[judge], samples.turbulent[judge], config)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(x[samples.test]))[:, 0].numpy())


def fit(
    model: torch.nn.Module, x: Singles, y: Labels, judge_x: Singles, judge_y: Labels, config: BaselineConfig
) -> float:
    """Train a network, and leave it as it was after its best epoch.

    The classes weigh the same: a turbulent sample weighs 1 - p, another p, where p is the share of the turbulent.

    Args:
        model: to be trained, in place.
        x, y: training samples, in the order in which they are taken in every epoch.
        judge_x, judge_y: samples whose unweighted loss decides which epoch is best.
        config: epochs, batch and learning rate.

    Returns:
        The least loss.

    Source:
        WxC-Bench at ee00516, aviation_turbulence/neuralnet/train_TurbulenceNN.py, lines 53-126.
    """
    inputs, target = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.float32))
    weight = torch.where(target == 1, 1 - target.mean(), target.mean())
    seen, wanted = torch.from_numpy(np.ascontiguousarray(judge_x)), torch.from_numpy(judge_y.astype(np.float32))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    best, kept = np.inf, {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(config.epochs):
        for begin in range(0, len(inputs), config.batch_size):
            batch = slice(begin, begin + config.batch_size)
            said = model(inputs[batch])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy(said, target[batch], weight[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            now = float(torch.nn.functional.binary_cross_entropy(model(seen)[:, 0], wanted))
        if now < best:
            best, kept = now, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return best


def logistic(x: Singles, y: Labels, *, ridge: float = 1.0, steps: int = 50) -> Any:
    """A logistic regression with the network's weights of classes, by Newton's method.

    Args:
        x: (S, K) normalised features.
        y: (S,).
        ridge: half the penalty on squared coefficients; the intercept has none.
        steps: at most so many.

    Returns:
        A function of features (S, K) to probabilities (S,).

    Source:
        Iteratively reweighted least squares, McCullagh and Nelder 1989, section 2.5.
    """
    design = np.concatenate([np.ones((len(x), 1)), x.astype(np.float64)], axis=1)
    weight = np.where(y, 1 - y.mean(), y.mean())
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 0
    coefficients = np.zeros(design.shape[1])
    for _ in range(steps):
        said = _sigmoid(design @ coefficients)
        slope = design.T @ (weight * (said - y)) + penalty * coefficients
        curvature = (design * (weight * np.maximum(said * (1 - said), 1e-9))[:, None]).T @ design
        step = np.linalg.solve(curvature + np.diag(penalty + 1e-9), slope)
        coefficients -= step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return lambda new: _sigmoid(coefficients[0] + new.astype(np.float64) @ coefficients[1:])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def climatology(samples: Samples, *, box: float = 10.0, prior: float = 10.0) -> Floats:
    """Share of turbulent training samples in the box of degrees and the band of each sample, drawn towards that of all.

    Args:
        samples: all.
        box: height and width of a box, degrees.
        prior: how many samples of the mean share each box is given beside its own.

    Returns:
        (S,) shares.

    Source:
        Ours.
    """
    high, wide = (max(1, round(box * size / span)) for size, span in zip(samples.shape, (180, 360), strict=True))
    key = (samples.band * 1000 + samples.row // high) * 1000 + samples.column // wide
    _, place = np.unique(key, return_inverse=True)
    train, mean = ~samples.test, float(samples.turbulent[~samples.test].mean())
    total = np.bincount(place[train], minlength=place.max() + 1)
    turbulent = np.bincount(place[train], samples.turbulent[train], minlength=place.max() + 1)
    return np.asarray(((turbulent + prior * mean) / (total + prior))[place])


def scores(said: Labels, truth: Labels, day: NDArray[np.int64], replicates: int, seed: int) -> Metrics:
    """The scores of the module's formulas, with intervals of 95 % over days.

    Args:
        said, truth: (S,).
        day: (S,) days; their samples are drawn together.
        replicates: draws of as many days as there are.
        seed: of the draws.

    Returns:
        Scores; not-a-number where a ratio has no cases.

    Source:
        Wilks, Statistical Methods in the Atmospheric Sciences, chapter on forecast verification; the bootstrap by
        blocks of days is Efron and Tibshirani 1993, chapter 8.
    """
    _, number = np.unique(day, return_inverse=True)
    kinds = [said & truth, said & ~truth, ~said & ~truth, ~said & truth]
    of_day = np.array([np.bincount(number, kind, minlength=number.max() + 1) for kind in kinds])
    days = of_day.shape[1]
    drawn = np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=replicates)
    whole, again = _ratios(of_day.sum(1)[:, None]), _ratios(of_day @ drawn.T)
    measured: Metrics = {}
    for name, value in whole.items():
        spread = again[name][np.isfinite(again[name])]
        low, high = np.quantile(spread, (0.025, 0.975)) if len(spread) else (np.nan, np.nan)
        measured[name] = (float(value[0]), float(low), float(high))
    return measured


def _ratios(counts: Floats) -> dict[str, Floats]:
    """Scores of counts (4, R): hits, false alarms, quiet ones, misses."""
    tp, fp, tn, fn = counts
    with np.errstate(invalid="ignore", divide="ignore"):
        pod, pofd = tp / (tp + fn), fp / (fp + tn)
        return {
            "accuracy": (tp + tn) / counts.sum(0),
            "pod": pod,
            "pofd": pofd,
            "far": fp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "skill": pod - pofd,
        }


def leakage(samples: Samples, seed: int) -> Metrics:
    """What a random draw of samples lends that a draw of days does not.

    For both draws: the share of held-out cells that have one of their eight neighbours of the same day and band among
    the training samples, and how well one does by copying the label of the nearest training cell of the same day and
    band (without one: the commoner label).

    Args:
        samples: whose `test` holds out days or samples; the other draw is made here with the same share.
        seed: of the draws.

    Returns:
        "leak_neighbour_share_random", "leak_copy_accuracy_random", "leak_copy_f1_random", "leak_copy_skill_random", the
        same with "days", and "leak_copy_skill_gain", the skill that copying has by the random draw alone.

    Source:
        Ours; that spatial neighbours across a split inflate scores is Roberts et al. 2017, Ecography 40, 913.
    """
    days = np.unique(samples.day)
    drawn = np.random.default_rng(seed).permutation(days)
    share = float(samples.test.mean())
    of_days = samples.test
    if not _whole_days(samples):
        of_days = np.isin(samples.day, drawn[: max(1, round(share * len(days)))])
    draws = {"days": of_days, "random": _random_quarter(len(samples.day), share, seed)}
    found: Metrics = {}
    for name, test in draws.items():
        copied, near = _copied(samples, test)
        truth = samples.turbulent[test]
        measured = scores(copied, truth, samples.day[test], 1000, seed)
        found[f"leak_neighbour_share_{name}"] = (float(near.mean()),) * 3
        found |= {f"leak_copy_{score}_{name}": measured[score] for score in ("accuracy", "f1", "skill")}
    # Without a training cell of its day the copy is one constant answer, whose skill is zero in every draw.
    plain = found["leak_copy_skill_days"][0]
    value, low, high = found["leak_copy_skill_random"]
    return {**found, "leak_copy_skill_gain": (value - plain, low - plain, high - plain)}


def _whole_days(samples: Samples) -> bool:
    return not np.intersect1d(samples.day[samples.test], samples.day[~samples.test]).size


def _copied(samples: Samples, test: Labels) -> tuple[Labels, Labels]:
    """Labels of the nearest training cells (of the test samples), and whether a neighbouring cell is one."""
    common = bool(samples.turbulent[~test].mean() >= 0.5)
    copied, near = np.full(len(test), common), np.zeros(len(test), bool)
    high, wide = 180 / (samples.shape[0] - 1), 360 / samples.shape[1]
    key = samples.day * len(BANDS) + samples.band
    order = np.argsort(key, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        held, known = own[test[own]], own[~test[own]]
        if not len(held) or not len(known):
            continue
        for some in np.array_split(held, max(1, len(held) * len(known) // 4_000_000)):
            down = np.abs(samples.row[some, None] - samples.row[known])
            across = np.abs(samples.column[some, None] - samples.column[known])
            across = np.minimum(across, samples.shape[1] - across)
            latitude = np.radians(-90 + high * samples.row[some])
            distance = (down * high) ** 2 + (across * wide * np.cos(latitude)[:, None]) ** 2
            copied[some] = samples.turbulent[known[distance.argmin(1)]]
            near[some] = ((down <= 1) & (across <= 1)).any(1)
    return copied[test], near[test]
