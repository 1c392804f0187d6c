"""What a ranker of next items is worth on users' last events, beside what counts and what is merely popular."""

# Shapes: Q users of the test, I items.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Figure, Judgement, Series
from models.feed.events.counting import Counter, CounterConfig, fit_counter
from models.feed.events.metrics import Interval, hit_rate_at, ndcg_at
from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.next_item.certificate import Answers, Counting, Margins, Shape, certify
from models.feed.ranking.next_item.counter import MIXTURES, Mixture, fit_companions
from models.feed.ranking.next_item.data import PROTOCOL, Questions, questions
from models.feed.ranking.next_item.network import NextItem, network_of
from models.feed.ranking.next_item.score import Scorer, blocks, carried_over, ranks
from models.feed.ranking.next_item.world import oracle

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NAMES = {"ligr": "LiGR", "sasrec": "SASRec", "hstu": "HSTU"}
ROWS = {
    "popularity": "popularity",
    "counter": "counter",
    "companions": "counter, by row and column",
    "model": "{model}",
    "hybrid": "{model} with the counter as an input",
    "oracle": "oracle",
}
"""What stands in the table for each score."""
CUTS = (1, 5, 10, 20, 50)


def _companions() -> CounterConfig:
    return CounterConfig(tau=100.0)


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How a ranker is judged before it goes live."""

    counter: CounterConfig = setting(CounterConfig, "Counter", "The counting recommender beside the ranker.")
    companions: CounterConfig = setting(
        _companions, "Counter as an input", "How the counter counts whose score is added in the hybrid."
    )
    tuned: int = setting(
        5000, "Users that choose", "Most users by whose validation events the hybrid is chosen, 20 to 10000000.",
        ge=20, le=10_000_000,
    )  # fmt: skip
    users: int = setting(
        32, "Users looked at again", "Test users whose scores and places the certificate computes again, 2 to 100000.",
        ge=2, le=100_000,
    )  # fmt: skip
    margin: float = setting(
        0.01,
        "Margin to the counter",
        "How far below the counter the lower end of the 95 % interval of the difference in NDCG@10 may lie, 0 to 1.",
        ge=0,
        le=1,
    )
    margin_popularity: float = setting(
        0.0, "Margin to popularity", "The same for ranking by popularity, 0 to 1.", ge=0, le=1
    )
    resamples: int = setting(1000, "Resamples", "Bootstrap resamples of the users, 100 to 100000.", ge=100, le=100_000)
    seed: int = setting(0, "Seed", "Start of every draw in judging, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


def judge(product: Payload, data: Payload, network: NextItem, settings: JudgementConfig) -> Judgement:
    """Judge a ranker on the test part, which is read here alone.

    Args:
        product: the model's parts.
        data: the data set.
        network: the ranker, with the product's weights.
        settings: counters, counts, seed and margins.

    Returns:
        The judgement.

    Source:
        Ours.
    """
    events, split = Events.from_payload(data), Split.from_payload(data)
    asked, scorer = questions(events, split, "test"), Scorer(network)
    beside = Beside.of(events, split, settings)
    mixture = beside.mixture(scorer, events, split, settings)
    contest = Contest(
        model=NAMES[network.config.block],
        rank=beside.ranks(scorer, mixture, asked, data),
        popular=beside.count[asked.target] > 0,
    )
    metrics = contest.metrics(settings) | {"hybrid_weight": mixture.weight, "hybrid_scale": mixture.scale}
    if "champion" in data:
        metrics |= _against(data["champion"], events, asked, contest, settings)
    sampled = _sampled(contest.rank["model"], settings)
    certificate = certify(
        weights=product["weights"],
        shape=_shape(network),
        data=data,
        answers=Answers(
            user=asked.user,
            target=asked.target,
            rank=contest.rank,
            sampled=sampled,
            logit=scorer.logits(asked.take(sampled).history),
            weight=mixture.weight,
            scale=mixture.scale,
        ),
        counter=_counting(settings.counter, both=False),
        companions=_counting(settings.companions, both=True),
        metrics=metrics,
        margins=Margins(counter=settings.margin, popularity=settings.margin_popularity),
    )
    return Judgement(
        headline="ndcg_at_10",
        metrics=metrics,
        certificate=certificate,
        table=contest.table(),
        figures=contest.figures(settings),
        protocol=f"{split.protocol} {PROTOCOL}",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Beside:
    """What needs no training, made of the training part.

    Attributes:
        count: (I) events of every item.
        counter: the counting recommender.
        companions: the counter that is an input.
    """

    count: Integers
    counter: Counter
    companions: Counter

    @classmethod
    def of(cls, events: Events, split: Split, settings: JudgementConfig) -> "Beside":
        """Both counters of a data set."""
        user, item = events.user[split.train], events.item[split.train]
        return cls(
            count=np.bincount(item, minlength=events.items),
            counter=fit_counter(settings.counter, user, item, events.items),
            companions=fit_companions(settings.companions, user, item, events.items),
        )

    def mixture(self, scorer: Scorer, events: Events, split: Split, settings: JudgementConfig) -> Mixture:
        """The hybrid that ranks the validation events best; the first of equals."""
        asked = questions(events, split, "validation")
        drawn = np.sort(np.random.default_rng(settings.seed).permutation(len(asked))[: settings.tuned])
        total = np.zeros(len(MIXTURES))
        for part in blocks(asked.take(drawn), events.items):
            logit = scorer.logits(part.history)
            count = self.companions.scores(part.history.item, part.history.start)
            total += [ndcg_at(ranks(part, one.logits(logit, count)), 10).sum() for one in MIXTURES]
        return MIXTURES[int(total.argmax())]

    def ranks(self, scorer: Scorer, mixture: Mixture, asked: Questions, data: Payload) -> dict[str, Integers]:
        """(Q) places of the targets under every score."""
        found: dict[str, list[Integers]] = {}
        for part in blocks(asked, len(self.count)):
            item, start = part.history.item, part.history.start
            logit, count = scorer.logits(part.history), self.companions.scores(item, start)
            popular = np.where(self.count > 0, self.count, -np.inf)
            scores = {
                "popularity": np.broadcast_to(popular, logit.shape),
                "counter": _positive(self.counter.scores(item, start)),
                "companions": _positive(count),
                "model": logit,
                "hybrid": mixture.logits(logit, count),
            }
            if "oracle_last" in data:
                before = np.where(part.history.length > 1, item[np.maximum(start[1:] - 2, 0)], -1)
                scores["oracle"] = oracle(data, item[start[1:] - 1], before)
            for name, score in scores.items():
                found.setdefault(name, []).append(ranks(part, score))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def _positive(score_QI: NDArray[np.float32]) -> NDArray[np.float32]:
    """What never went with a history cannot be recommended by counting."""
    return np.where(score_QI > 0, score_QI, np.float32(-np.inf))


def _sampled(rank: Integers, settings: JudgementConfig) -> Integers:
    """Users to look at again: half of them among those whose target is in the first ten, where places matter."""
    order = np.random.default_rng(settings.seed).permutation(len(rank))
    found, missed = order[rank[order] < 10], order[rank[order] >= 10]
    half = min(settings.users // 2, len(found))
    return np.sort(np.concatenate([found[:half], missed[: settings.users - half]]))


def _shape(network: NextItem) -> Shape:
    """What the certificate must be told of the network beside its weights."""
    config = network.config
    return Shape(
        block=config.block,
        heads=config.heads,
        history=config.history,
        similarity=config.similarity,
        temperature=config.temperature,
    )


def _counting(config: CounterConfig, *, both: bool) -> Counting:
    return Counting(
        window=config.window,
        power=config.power,
        backward=config.backward,
        recency=config.recency,
        tau=config.tau,
        keep=config.keep,
        both=both,
    )


def _against(
    champion: Mapping[str, Any], events: Events, asked: Questions, contest: "Contest", settings: JudgementConfig
) -> dict[str, float]:
    """The live ranker on the candidate's own test users, and what the candidate gains over it."""
    network = carried_over(network_of(champion["network"]), Events.from_payload(champion["data"]), events)
    scorer = Scorer(network)
    rank = np.concatenate([ranks(part, scorer.logits(part.history)) for part in blocks(asked, events.items)])
    gain = paired_interval(contest.gain("model"), ndcg_at(rank, 10), settings)
    return {
        "ndcg_at_10_champion": float(ndcg_at(rank, 10).mean()),
        "gain_over_champion": gain.difference,
        "gain_over_champion_low": gain.low,
        "gain_over_champion_high": gain.high,
    }


def paired_interval(ours: Floats, theirs: Floats, settings: JudgementConfig) -> Interval:
    """Difference of two means over the same users, with a 95 % percentile bootstrap interval.

    Args:
        ours: (Q) gains.
        theirs: (Q) gains of the other.
        settings: resamples and seed.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    rng, gain = np.random.default_rng(settings.seed), ours - theirs
    drawn = [gain[rng.integers(len(gain), size=len(gain))].mean() for _ in range(settings.resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(difference=float(gain.mean()), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """Places of the same targets under several scores.

    Attributes:
        model: what the ranker is called.
        rank: name to (Q) places from 0.
        popular: (Q) whether training met the target.
    """

    model: str
    rank: Mapping[str, Integers]
    popular: NDArray[np.bool_]

    def gain(self, name: str) -> Floats:
        """(Q) NDCG@10 of each user."""
        return ndcg_at(self.rank[name], 10)

    def called(self, name: str) -> str:
        """What a score is called in tables."""
        return ROWS[name].format(model=self.model)

    def metrics(self, settings: JudgementConfig) -> dict[str, float]:
        """What every score reaches, and what the ranker gains over counting and popularity."""
        found = {"recall_at_10": self._mean("model", hit_rate_at), "ndcg_at_10": self._mean("model", ndcg_at)}
        for name in self.rank:
            if name != "model":
                found[f"recall_at_10_{name}"] = self._mean(name, hit_rate_at)
                found[f"ndcg_at_10_{name}"] = self._mean(name, ndcg_at)
        for left, right in (("model", "counter"), ("model", "popularity"), ("hybrid", "model"), ("hybrid", "counter")):
            interval = paired_interval(self.gain(left), self.gain(right), settings)
            what = f"ndcg_at_10_{left}_over_{right}"
            found |= {what: interval.difference, f"{what}_low": interval.low, f"{what}_high": interval.high}
        found["cold_targets"] = float((~self.popular).mean())
        return found

    def table(self) -> tuple[Mapping[str, Any], ...]:
        """One row per score."""
        return tuple(
            {
                "score": self.called(name),
                "recall@10": self._mean(name, hit_rate_at),
                "NDCG@10": self._mean(name, ndcg_at),
                "recall@20": self._mean(name, hit_rate_at, 20),
                "NDCG@20": self._mean(name, ndcg_at, 20),
            }
            for name in ROWS
            if name in self.rank
        )

    def figures(self, settings: JudgementConfig) -> tuple[Figure, ...]:
        """NDCG@10 of every score, and the recall of lists of several lengths."""
        names = [name for name in ROWS if name in self.rank]
        nothing = np.zeros(len(self.popular))
        bounds = [paired_interval(self.gain(name), nothing, settings) for name in names]
        users = f"{len(self.popular)} users, one last event each, ranked among all items not met before."
        best = max(self._mean("counter", ndcg_at), self._mean("popularity", ndcg_at))
        verb = "is above" if self._mean("model", ndcg_at) > best else "is not above"
        return (
            Figure(
                name="ndcg",
                title=f"{self.model} {verb} what only counts",
                x_label="score",
                y_label="NDCG@10",
                series=(
                    Series(
                        label="NDCG@10",
                        x=tuple(self.called(name) for name in names),
                        y=tuple(bound.difference for bound in bounds),
                        low=tuple(bound.low for bound in bounds),
                        high=tuple(bound.high for bound in bounds),
                    ),
                ),
                kind="bars",
                caption=f"{users} Whiskers: 95 % bootstrap intervals.",
            ),
            Figure(
                name="recall",
                title="How often the next item is in the list, by the list's length",
                x_label="items in the list",
                y_label="recall",
                series=tuple(
                    Series(
                        label=self.called(name),
                        x=CUTS,
                        y=tuple(self._mean(name, hit_rate_at, cut) for cut in CUTS),
                    )
                    for name in names
                ),
                caption=users,
                log_x=True,
            ),
        )

    def _mean(self, name: str, measure: Callable[[Integers, int], Floats], k: int = 10) -> float:
        return float(measure(self.rank[name], k).mean())
