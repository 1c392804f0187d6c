"""The first split against all splits, what trees can tell that a line cannot, and the learner's promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from models.common.contracts import InputError
from models.marketing.prediction.trees import BoostedConfig
from models.marketing.prediction.uplift import cross_fit, fit_uplift

Floats = NDArray[np.float64]


def _best_split(features: Floats, target: Floats, least: int, shrink: float) -> float:
    """The largest gain of any cut of any feature, by trying them all."""
    rest, best = target - target.mean(), 0.0

    def score(part: Floats) -> float:
        return float(part.sum() ** 2 / (len(part) + shrink))

    for column in features.T:
        for cut in np.unique(column)[:-1]:
            low, high = rest[column <= cut], rest[column > cut]
            if len(low) >= least and len(high) >= least:
                best = max(best, score(low) + score(high) - score(rest))
    return best


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
@settings(max_examples=60, deadline=None)
def test_the_first_split_is_the_best_of_all(seed: int, least: int, shrink: float) -> None:
    random = np.random.default_rng(seed)
    features, target = random.integers(0, 6, (30, 3)).astype(float), random.normal(size=30)
    model = BoostedConfig(trees=1, depth=1, rate=1.0, least=least, shrink=shrink)(features, target)
    feature, cut = int(model.feature[0, 0]), float(model.cut[0, 0])
    low = features[:, feature] <= cut
    rest = target - target.mean()
    gain = sum(rest[side].sum() ** 2 / (side.sum() + shrink) for side in (low, ~low) if side.any())
    gain -= rest.sum() ** 2 / (30 + shrink)
    assert gain == pytest.approx(_best_split(features, target, least, shrink), rel=1e-9)
    wanted = [target.mean() + rest[side].sum() / (side.sum() + shrink) for side in (low, ~low)]
    np.testing.assert_allclose(model(features), np.where(low, *wanted), rtol=1e-9)


def test_deep_trees_without_shrinkage_say_every_target_again() -> None:
    random = np.random.default_rng(0)
    features, target = random.permutation(64).astype(float)[:, None], random.normal(size=64)
    model = BoostedConfig(trees=40, depth=7, rate=1.0, least=1, shrink=0.0, bins=256)(features, target)
    np.testing.assert_allclose(model(features), target, atol=1e-9)


def test_only_the_order_of_a_feature_matters() -> None:
    random = np.random.default_rng(1)
    features, target = random.normal(size=(500, 2)), random.normal(size=500)
    bent = np.stack([np.exp(features[:, 0]), features[:, 1] ** 3], axis=1)
    one, other = BoostedConfig(trees=20)(features, target), BoostedConfig(trees=20)(bent, target)
    np.testing.assert_array_equal(one(features), other(bent))


def test_trees_tell_what_no_line_can() -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(6000, 3))
    truth = np.where(features[:, 0] > 0, 1.0, -1.0) * np.where(features[:, 1] > 0.3, 1.0, -1.0)
    model = BoostedConfig(trees=60)(features[:3000], truth[:3000] + random.normal(size=3000))
    assert np.corrcoef(model(features[3000:]), truth[3000:])[0, 1] > 0.95


def test_chances_of_trees_are_true_on_members_they_did_not_see() -> None:
    random = np.random.default_rng(3)
    features = random.normal(size=(20_000, 2))
    chance = expit(-2 + 2 * (np.abs(features[:, 0]) > 1) + features[:, 1])
    label = (random.random(20_000) < chance).astype(float)
    model = BoostedConfig(outcome="chance", trees=60)(features[:10_000], label[:10_000])
    said = model(features[10_000:])
    assert np.abs(said - chance[10_000:]).mean() < 0.03
    assert said.min() > 0 and said.max() < 1
    none = BoostedConfig(outcome="chance", trees=3)(features[:50], np.zeros(50))
    assert 0 < none(features[:50]).max() < 0.05


def test_a_constant_feature_is_never_asked_and_leaves_are_never_too_small() -> None:
    random = np.random.default_rng(4)
    features = np.stack([np.full(200, 3.0), random.normal(size=200)], axis=1)
    model = BoostedConfig(trees=10, least=30)(features, features[:, 1] + random.normal(size=200))
    assert np.all(model.feature[np.isfinite(model.cut)] == 1)
    for feature_I, cut_I in zip(model.feature, model.cut, strict=True):
        node = np.zeros(200, int)
        while node.min() < 7:
            node = 2 * node + 1 + (features[np.arange(200), feature_I[node]] > cut_I[node])
        assert np.bincount(node)[np.unique(node)].min() >= 30


def test_trees_find_uplift_that_depends_on_two_features_at_once() -> None:
    random = np.random.default_rng(5)
    x, treated = random.normal(size=(12_000, 3)), (random.random(12_000) < 0.5).astype(float)
    uplift = np.where((x[:, 0] > 0) & (x[:, 1] > 0), 2.0, 0.0)
    outcome = np.abs(x[:, 2]) + treated * uplift + random.normal(size=12_000)
    boosted = BoostedConfig(trees=60)
    known = cross_fit(x[:8000], treated[:8000], outcome[:8000], learner=boosted, propensity=np.full(8000, 0.5))
    model = fit_uplift(x[:8000], known, kind="dr", learner=boosted)
    assert np.corrcoef(model(x[8000:]), uplift[8000:])[0, 1] > 0.93


def test_what_cannot_be_learned_from_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="one target a member"):
        BoostedConfig()(np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(InputError, match="must be finite"):
        BoostedConfig()(np.full((3, 1), np.nan), np.zeros(3))
    with pytest.raises(InputError, match="0 to 1"):
        BoostedConfig(outcome="chance")(np.zeros((3, 1)), np.array([0.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match=r"BoostedConfig\.depth"):
        BoostedConfig(depth=0)


@pytest.mark.parametrize("unit", [1e-200, 1e-9, 1e200])
def test_the_unit_of_targets_and_features_does_not_matter(unit: float) -> None:
    feature, target = np.arange(100.0)[:, None], np.arange(100.0) ** 1.5
    plain = BoostedConfig(trees=20)(feature, target)
    moved = BoostedConfig(trees=20)(feature * unit, target * unit)
    np.testing.assert_allclose(moved(feature * unit) / unit, plain(feature), rtol=1e-9)
