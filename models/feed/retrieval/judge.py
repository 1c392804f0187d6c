"""What an index is worth: rankings on held-out choices, its certificate, and how it answers in service."""

# Shapes: Q queries, N items, D dimension, K places of a list.

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Figure, Judgement, Series
from models.feed.points import degrees_of, is_point
from models.feed.retrieval.cascade import MixtureSearching
from models.feed.retrieval.certificate import certify, certify_towers, certify_two_stages, exact_and_recall
from models.feed.retrieval.filter import Column, Everything, Filter, col
from models.feed.retrieval.generator import utility
from models.feed.retrieval.index import RetrievalIndex
from models.feed.retrieval.metrics import (
    Compare,
    Seen,
    best_window,
    coverage,
    hit_rate,
    inner_product,
    ndcg,
    paired_interval,
    popularity,
    popularity_lists,
    rank_by,
    reciprocal_rank,
)
from models.feed.retrieval.writes import Writes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

HEADLINE = 50
CURVE = (1, 5, 10, 20, 50, 100, 200)
TOGETHER = 256
"""Queries asked of the index at once when whole lists are wanted."""


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How an index is judged before it goes live and watched after."""

    k: int = setting(
        10, "Answers per query", "Length of the answers that the certificate compares, 1 to 2000.", ge=1, le=2000
    )
    queries: int = setting(64, "Certificate queries", "Queries drawn for the certificate, 1 to 10000.", ge=1, le=10_000)
    cases: int = setting(
        100,
        "Certificate cases",
        "Pairs of a query and a sampled filter that the certificate compares, 8 to 100000.",
        ge=8,
        le=100_000,
    )  # fmt: skip
    margin: float = setting(
        0.0,
        "Margin to popularity",
        "How far below popularity the lower end of the 95 % interval of the hit rate's gain may lie, 0 to 1.",
        ge=0,
        le=1,
    )
    resamples: int = setting(2000, "Resamples", "Bootstrap resamples of the users, 100 to 100000.", ge=100, le=100_000)
    replays: int = setting(100, "Replays", "Requests replayed by one watch, 1 to 10000.", ge=1, le=10_000)
    seed: int = setting(0, "Seed", "Start of every draw in judging, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        check(self)


Search = Callable[[NDArray[np.float32], int, Sequence[Filter] | None], tuple[Integers, Floats, Integers]]
"""An index as a plain function; see `Searching`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an index should hold, made again from data and network, and who asks it.

    Attributes:
        vectors: (N, D) of the items, in the order of the data.
        ids: (N) under which the items are indexed.
        attributes: N rows of what filters may name.
        queries: (Q, D), of the test members in the order of the test part, or held-out vectors.
        members: (Q, X), what members are compared by; the queries themselves but for a learned similarity.
        compare: scores of members and items, by which the encoder alone ranks.
        search: how an index is asked about members.
        ranking: what ranks, in words.
        weights: of a mixture, by name: what its two stages are judged by; None for everything else.
    """

    vectors: NDArray[np.float32]
    ids: Integers
    attributes: pa.Table
    queries: NDArray[np.float32]
    members: NDArray[np.float32]
    compare: Compare = inner_product
    search: "Callable[[Payload], Search]" = lambda product: Searching(RetrievalIndex.restore(product))
    ranking: str = "two towers"
    weights: Mapping[str, Any] | None = None


def judge(product: Payload, data: Payload, source: Source, settings: JudgementConfig) -> Judgement:
    """Judge an index: does it hold and find what it should, and do its answers meet the held-out choices.

    Args:
        product: the index's parts.
        data: the data set; its test part is read here alone.
        source: what the index should hold.
        settings: counts, seed and margin.

    Returns:
        The judgement. Rankings are judged on what the index itself answers.

    Source:
        Ours; the exhaustive reference is `certificate.exact_answer`.
    """
    certificate, metrics = _searched(product, source, settings)
    if "test" not in data:
        return _of_claims(certificate, metrics, settings, data["about"]["protocol"])
    search = source.search(product)
    if isinstance(search, MixtureSearching):
        staged, more = _two_stages(search, source, settings)
        certificate, metrics = Certificate(claims=(*certificate.claims, *staged.claims)), metrics | more
    contest = _contest(lambda users, seen, k: _answers(search, source, users, seen, k), data, source.ranking)
    metrics |= contest.metrics(settings)
    claim = _gain(contest, metrics, settings)
    return Judgement(
        headline=f"hit_rate_at_{HEADLINE}",
        metrics=metrics,
        certificate=Certificate(claims=(*certificate.claims, claim)),
        table=contest.table(),
        figures=contest.figures(),
        protocol=data["about"]["protocol"],
    )


def judge_compacted(product: Payload, writes: Writes, source: Source, settings: JudgementConfig) -> Judgement:
    """Judge an index that holds what was written to it: does it hold and find what it should now.

    How well it meets held-out choices was judged when it was built. They speak of the items of then.

    Args:
        product: the index's parts.
        writes: what was written since it was built, read by other code than made the product.
        source: what the index should hold, with these writes.
        settings: counts and seed.

    Returns:
        The judgement; all its claims are exact.

    Source:
        Ours; the exhaustive reference is `certificate.exact_answer`.
    """
    certificate, metrics = _searched(product, source, settings)
    claim = Claim(
        name="writes_lost",
        kind="exact",
        value=float(writes.missing_from(product)),
        limit=0.0,
        detail=f"Of {len(writes.ids)} items written and {len(writes.gone)} removed since the index was built, those "
        f"that are not there as they were written, bit for bit, or are still there.",
    )
    metrics |= {"items_written": float(len(writes.ids)), "items_removed": float(len(writes.gone))}
    certificate = Certificate(claims=(*certificate.claims, claim))
    protocol = (
        f"The items as they were built, {len(writes.ids)} written and {len(writes.gone)} removed since, told again "
        f"from the log up to write {writes.sequence}; every answer against an exhaustive scan of them in float64."
    )
    return _of_claims(certificate, metrics, settings, protocol)


def _searched(product: Payload, source: Source, settings: JudgementConfig) -> tuple[Certificate, dict[str, float]]:
    """Whether an index holds and finds what it should, under sampled filters; and its size."""
    drawn = _drawn(source, settings)
    certificate = certify(
        Searching(RetrievalIndex.restore(product)),
        vectors=source.vectors,
        ids=source.ids,
        attributes=source.attributes,
        queries=source.queries[drawn],
        k=settings.k,
        cases=settings.cases,
        seed=settings.seed,
    )
    metrics = {claim.name: claim.value for claim in certificate.claims if claim.name.startswith("filtered_recall")}
    return certificate, metrics | {"index_rows": float(len(product["ids"])), "index_bytes": float(_bytes(product))}


def _two_stages(
    search: MixtureSearching, source: Source, settings: JudgementConfig
) -> tuple[Certificate, dict[str, float]]:
    """What the two stages find of the best by a mixture under sampled filters, and how much of the work they save."""
    drawn = _drawn(source, settings)
    filters, members = sample_filters(source.attributes, len(drawn), seed=settings.seed), source.members[drawn]
    hits = search.hits(members, settings.k, filters)
    recall, certificate = certify_two_stages(
        found=hits.ids.numpy(),
        certified=hits.certified.numpy(),
        weights=source.weights or {},
        items=source.vectors,
        ids=source.ids,
        attributes=source.attributes,
        queries=members,
        filters=filters,
    )
    work = float(hits.evaluated.sum()) / max(1.0, float(hits.passing.sum()))
    return certificate, {
        f"two_stage_recall_at_{settings.k}": float(recall.mean()),
        "two_stage_certified": float(hits.certified.double().mean()),
        "two_stage_work_saved": 1 - work,
    }


def _drawn(source: Source, settings: JudgementConfig) -> Integers:
    """Rows of the queries that the certificate asks."""
    return np.random.default_rng(settings.seed).permutation(len(source.queries))[: settings.queries]


def _of_claims(
    certificate: Certificate, metrics: Mapping[str, float], settings: JudgementConfig, protocol: str
) -> Judgement:
    """A judgement that is its certificate."""
    return Judgement(
        headline=f"filtered_recall_at_{settings.k}",
        metrics=metrics,
        certificate=certificate,
        table=tuple({"claim": claim.name, "found": claim.value, "limit": claim.limit} for claim in certificate.claims),
        protocol=protocol,
    )


def judge_towers(product: Payload, data: Payload, source: Source, settings: JudgementConfig) -> Judgement:
    """Judge an encoder without an index: does it rank held-out choices, and by how much better than popularity.

    Args:
        product: the model's parts.
        data: the data set; its test part is read.
        source: what the encoder says of members and items.
        settings: counts, seed and margin.

    Returns:
        The judgement.

    Source:
        Ours; sampled members are ranked again by `certificate.certify_towers`.
    """
    contest = _contest(_encoder_alone(source), data, source.ranking)
    metrics = contest.metrics(settings)
    users, relevant = _asked(data["test"])
    drawn = np.random.default_rng(settings.seed).permutation(len(users))[: settings.queries]
    seen = Seen([data["train"], data["validation"]], data["users"].num_rows)
    certificate = certify_towers(
        weights=product["weights"],
        items=source.vectors,
        queries=source.members[drawn],
        relevant=relevant[drawn, 0],
        met=[seen.pairs(users[one : one + 1])[1] for one in drawn],
        hits=hit_rate(contest.ours, relevant, HEADLINE)[drawn],
        k=HEADLINE,
    )
    return Judgement(
        headline=f"hit_rate_at_{HEADLINE}",
        metrics=metrics,
        certificate=Certificate(claims=(*certificate.claims, _gain(contest, metrics, settings))),
        table=contest.table(),
        figures=contest.figures(),
        protocol=data["about"]["protocol"],
    )


@dataclass(frozen=True)
class Searching:
    """An index as the plain function that the certificate asks."""

    index: RetrievalIndex

    def __call__(
        self, queries: NDArray[np.float32], k: int, filters: Sequence[Filter] | None
    ) -> tuple[Integers, Floats, Integers]:
        """Identifiers (Q, k), scores (Q, k), and how many items each filter let through (Q)."""
        where = None if filters is None else list(filters)
        hits = self.index.search(queries, k, where)
        return hits.ids, hits.scores, hits.passing


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Rankings of the same users beside one another.

    Attributes:
        lists: name of a ranking to its lists (Q, K): `popularity`, what is judged, and `oracle` where truth is known.
        relevant: (Q, 1) held-out items.
        taken: (Q) how often each held-out item was met in training.
        items: number of items.
        baseline: what popularity means here, in words.
        ranking: what is judged, in words: the two towers, or a learned similarity.
    """

    lists: Mapping[str, Integers]
    relevant: Integers
    taken: Integers
    items: int
    baseline: str
    ranking: str

    @property
    def ours(self) -> Integers:
        """Lists of what is judged."""
        return self.lists[self.ranking]

    def metrics(self, settings: JudgementConfig) -> dict[str, float]:
        """Hit rates with the paired interval of the gain over popularity, and the share of the oracle's gap closed."""
        hits = {name: hit_rate(lists, self.relevant, HEADLINE) for name, lists in self.lists.items()}
        ours = self.ours
        low, high = paired_interval(
            hits[self.ranking], hits["popularity"], seed=settings.seed, resamples=settings.resamples
        )
        rate = {name: float(values.mean()) for name, values in hits.items()}
        found = {
            "hit_rate_at_50": rate[self.ranking],
            "hit_rate_at_10": float(hit_rate(ours, self.relevant, 10).mean()),
            "ndcg_at_50": float(ndcg(ours, self.relevant, HEADLINE).mean()),
            "mrr_at_50": float(reciprocal_rank(ours, self.relevant, HEADLINE).mean()),
            "coverage_at_50": coverage(ours, self.items, HEADLINE),
            "hit_rate_at_50_popularity": rate["popularity"],
            "hit_rate_gain": rate[self.ranking] - rate["popularity"],
            "hit_rate_gain_low": low,
            "hit_rate_gain_high": high,
        }
        if "oracle" in rate:
            found["hit_rate_at_50_oracle"] = rate["oracle"]
            if rate["oracle"] > rate["popularity"]:
                found["gap_closed"] = found["hit_rate_gain"] / (rate["oracle"] - rate["popularity"])
        return found

    def table(self) -> tuple[Mapping[str, Any], ...]:
        """One row per ranking."""
        return tuple(
            {
                "ranking": self.baseline if name == "popularity" else name,
                "hit rate@10": float(hit_rate(lists, self.relevant, 10).mean()),
                f"hit rate@{HEADLINE}": float(hit_rate(lists, self.relevant, HEADLINE).mean()),
                f"NDCG@{HEADLINE}": float(ndcg(lists, self.relevant, HEADLINE).mean()),
                f"MRR@{HEADLINE}": float(reciprocal_rank(lists, self.relevant, HEADLINE).mean()),
                f"coverage@{HEADLINE}": coverage(lists, self.items, HEADLINE),
            }
            for name, lists in self.lists.items()
        )

    def figures(self) -> tuple[Figure, ...]:
        """Hit rate by length of the list, and by how well known the held-out item is."""
        caption = f"Bands: 95 % Wilson intervals over {len(self.relevant)} members."
        curve = tuple(
            _rates(name, CURVE, [hit_rate(lists, self.relevant, k) for k in CURVE])
            for name, lists in self.lists.items()
        )
        edges = (0, 5, 20, 50, np.inf)
        groups = [
            (
                f"{low} to {high - 1:.0f}" if np.isfinite(high) else f"{low} or more",
                (self.taken >= low) & (self.taken < high),
            )
            for low, high in pairwise(edges)
        ]
        groups = [(name, inside) for name, inside in groups if inside.any()]
        known = tuple(
            _rates(
                name,
                [group for group, _ in groups],
                [hit_rate(lists[inside], self.relevant[inside], HEADLINE) for _, inside in groups],
            )
            for name, lists in self.lists.items()
        )
        gain = "above" if _mean(curve, self.ranking) > _mean(curve, "popularity") else "not above"
        verb = "are" if self.ranking == Source.ranking else "is"
        return (
            Figure(
                name="hit_rate_by_k",
                title=f"The {self.ranking} {verb} {gain} popularity",
                x_label="length of the list k (items)",
                y_label="hit rate@k (share of members)",
                series=curve,
                caption=caption,
                log_x=True,
            ),
            Figure(
                name="hit_rate_by_fame",
                title="Who finds the items that few have met",
                x_label="times that the held-out item was met in training",
                y_label=f"hit rate@{HEADLINE} (share of members)",
                series=known,
                kind="bars",
                caption=caption,
            ),
        )


def _mean(series: Sequence[Series], label: str) -> float:
    return next(one.y[CURVE.index(HEADLINE)] for one in series if one.label == label)


def _rates(label: str, x: Sequence[Any], hits: Sequence[Floats]) -> Series:
    """Means of zeros and ones with their Wilson intervals (Wilson 1927)."""
    z = 1.959964
    rate = np.array([values.mean() for values in hits])
    count = np.array([len(values) for values in hits])
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    return Series(
        label=label,
        x=tuple(x),
        y=tuple(rate.tolist()),
        low=tuple((middle - half).tolist()),
        high=tuple((middle + half).tolist()),
    )


def _gain(contest: Contest, metrics: Mapping[str, float], settings: JudgementConfig) -> Claim:
    """The claim that the ranking beats popularity."""
    return Claim(
        name="hit_rate_gain_low",
        kind="statistical",
        value=metrics["hit_rate_gain_low"],
        limit=0.0 - settings.margin,
        sense="at least",
        detail=f"Lower end of the paired 95 % bootstrap interval, over {len(contest.relevant)} members, of hit rate@"
        f"{HEADLINE} minus that of {contest.baseline}; if it fails, train longer or on more data.",
    )


Ranking = Callable[[Integers, Seen, int], Integers]
"""What a contestant answers: (users, what they met, length of the lists) to lists of rows of the data."""


def _encoder_alone(source: Source) -> Ranking:
    """An exhaustive comparison by the encoder; no index takes part."""
    return lambda users, seen, k: rank_by(source.members, source.vectors, users, seen, k, source.compare)


def _contest(ours: Ranking, data: Payload, ranking: str) -> Contest:
    """Rank the test members' unseen items by popularity, by what is judged, and by the truth if it is known."""
    items, members = data["items"].num_rows, data["users"].num_rows
    earlier = [data["train"], data["validation"]]
    seen = Seen(earlier, members)
    users, relevant = _asked(data["test"])
    longest = min(max(CURVE), items)
    watched, chosen = _asked(data["validation"])
    window = best_window([data["train"]], items, watched, Seen([data["train"]], members), chosen, HEADLINE)
    lists = {
        "popularity": popularity_lists(popularity(earlier, items, window), users, seen, longest),
        ranking: ours(users, seen, longest),
    }
    if "true_users" in data:
        truth = np.asarray(data["true_users"], np.float32)[users]
        lists["oracle"] = rank_by(truth, np.asarray(data["true_items"], np.float32), users, seen, longest, utility)
    return Contest(
        lists=lists,
        relevant=relevant,
        taken=popularity([data["train"]], items, 1.0)[relevant[:, 0]],
        items=items,
        baseline="popularity of all time" if window == 1 else f"popularity in the latest {100 * window:g} %",
        ranking=ranking,
    )


def _asked(part: pa.Table) -> tuple[Integers, Integers]:
    """Users of a part, and their items as one column."""
    return np.asarray(part["user"].to_numpy(), np.int64), np.asarray(part["item"].to_numpy(), np.int64)[:, None]


def _answers(search: Search, source: Source, users: Integers, seen: Seen, k: int) -> Integers:
    """What the index answers, without what each user met; as rows of the data."""
    order = np.argsort(source.ids, kind="stable")
    lists = np.full((len(users), k), -1, np.int64)
    by_history = np.argsort(seen.counts(users), kind="stable")
    for first in range(0, len(users), TOGETHER):
        some = by_history[first : first + TOGETHER]
        wanted = min(k + int(seen.counts(users[some]).max()), len(source.ids))
        found, _, _ = search(source.members[some], wanted, None)
        place = np.minimum(np.searchsorted(source.ids[order], found), len(order) - 1)
        rows = np.where(source.ids[order[place]] == found, order[place], -1)
        lists[some] = seen.drop(rows, users[some], k)
    return lists


def _bytes(product: Payload) -> int:
    """Size of the parts as they lie in memory."""
    return sum(int(product[name].nbytes) for name in ("vectors", "ids", "attributes"))


def watch(product: Payload, source: Source, settings: JudgementConfig) -> Judgement:
    """Replay sampled queries under sampled filters, one at a time, against the exact answer.

    Args:
        product: the index's parts.
        source: what it should hold, and who asks.
        settings: how many replays, length of the answers, seed.

    Returns:
        The judgement: recall, overlap with the exact list, latency and how many items the filters let through.

    Source:
        Ours.
    """
    search = Searching(RetrievalIndex.restore(product))
    rng = np.random.default_rng(settings.seed)
    filters = sample_filters(source.attributes, settings.replays, seed=settings.seed)
    asked = rng.integers(0, len(source.queries), settings.replays)
    search(source.queries[asked[:1]], settings.k, filters[:1])
    answers, taken, passing = np.full((settings.replays, settings.k), -1, np.int64), [], []
    for case, where in enumerate(filters):
        query = source.queries[asked[case : case + 1]]
        began = time.perf_counter()
        ids, _, passed = search(query, settings.k, [where])
        taken.append(1000 * (time.perf_counter() - began))
        answers[case] = ids[0]
        passing.append(int(passed[0]))
    exact, found = exact_and_recall(
        answers, source.vectors, source.ids, source.attributes, source.queries[asked], filters
    )
    overlap = [
        float(np.isin(right[right >= 0], answer).mean()) if (right >= 0).any() else 1.0
        for right, answer in zip(exact.ids, answers, strict=True)
    ]
    wrong = sum(count != right for count, right in zip(passing, exact.passing.tolist(), strict=True))
    recall = float(found.mean())
    name = f"filtered_recall_at_{settings.k}"
    claim = Claim(
        name=name,
        kind="exact",
        value=recall,
        limit=1.0,
        sense="at least",
        detail=f"{settings.replays} requests replayed against an exhaustive scan in float64; if it fails, build the "
        f"index again and roll back meanwhile.",
    )
    counted = Claim(
        name="passing_wrong",
        kind="exact",
        value=float(wrong),
        limit=0.0,
        detail="Requests whose filter let through another number of items than it should.",
    )
    p50, p95 = np.quantile(taken, [0.5, 0.95])
    return Judgement(
        headline=name,
        metrics={
            name: recall,
            f"overlap_at_{settings.k}": float(np.mean(overlap)),
            "latency_ms_p50": float(p50),
            "latency_ms_p95": float(p95),
            "passing_median": float(np.median(passing)),
            "passing_smallest": float(min(passing)),
            "index_rows": float(len(product["ids"])),
            "index_bytes": float(_bytes(product)),
        },
        certificate=Certificate(claims=(claim, counted)),
        table=_by_passing(found.tolist(), overlap, taken, passing),
        figures=(_latency(taken, passing), _histogram(passing)),
        protocol=f"{settings.replays} requests: sampled queries under filters sampled from the items' own values.",
    )


PASSING = (0, 10, 100, 1_000, 10_000, 100_000, np.inf)


def _groups(passing: Sequence[int]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Requests by how many items passed, those groups that have any."""
    counts = np.asarray(passing)
    named = [
        (f"{low:,} to {high - 1:,.0f}" if np.isfinite(high) else f"{low:,} or more", (counts >= low) & (counts < high))
        for low, high in pairwise(PASSING)
    ]
    return [(name, inside) for name, inside in named if inside.any()]


def _by_passing(
    found: Sequence[float], overlap: Sequence[float], taken: Sequence[float], passing: Sequence[int]
) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {
            "items passing": name,
            "requests": int(inside.sum()),
            "recall": float(np.asarray(found)[inside].mean()),
            "overlap": float(np.asarray(overlap)[inside].mean()),
            "median ms": float(np.median(np.asarray(taken)[inside])),
            "slowest ms": float(np.max(np.asarray(taken)[inside])),
        }
        for name, inside in _groups(passing)
    )


def _latency(taken: Sequence[float], passing: Sequence[int]) -> Figure:
    groups = _groups(passing)
    times = [np.asarray(taken)[inside] for _, inside in groups]
    return Figure(
        name="latency_by_passing",
        title="How long an answer takes by how much its filter lets through",
        x_label="items passing the filter",
        y_label="time per request (ms)",
        series=(
            Series(
                label="median",
                x=tuple(name for name, _ in groups),
                y=tuple(float(np.median(values)) for values in times),
                low=tuple(float(np.quantile(values, 0.05)) for values in times),
                high=tuple(float(np.quantile(values, 0.95)) for values in times),
            ),
        ),
        kind="bars",
        caption=f"Bars: medians, with the 5th and 95th percentile, of {len(taken)} requests one at a time.",
    )


def _histogram(passing: Sequence[int]) -> Figure:
    """How many requests let through how many items, by powers of ten, empty groups between two others too."""
    decades = [0 if count == 0 else 1 + int(np.log10(count)) for count in passing]
    reached = range(min(decades), max(decades) + 1)
    names = ["0" if one == 0 else f"{10 ** (one - 1):,} to {10**one - 1:,}" for one in reached]
    return Figure(
        name="passing_counts",
        title=f"Half of the filters let {np.median(passing):,.0f} items through, or fewer",
        x_label="items passing the filter",
        y_label="requests",
        series=(Series(label="requests", x=tuple(names), y=tuple(float(decades.count(one)) for one in reached)),),
        kind="bars",
        caption=f"{len(passing)} requests; from {min(passing):,} to {max(passing):,} items.",
    )


def sample_filters(attributes: pa.Table, count: int, *, seed: int) -> list[Filter]:
    """Draw filters from the items' own values, so that they pass anything from one item to all.

    One in four lets everything through; the others hold one or two predicates on random attributes of random items,
    one in four of them negated.

    Args:
        attributes: one row per item.
        count: how many.
        seed: of the draw.

    Returns:
        The filters.

    Source:
        Ours.
    """
    rng = np.random.default_rng(seed)
    filters: list[Filter] = []
    for _ in range(count):
        if not attributes.column_names or rng.random() < 0.25:
            filters.append(Everything())
            continue
        where = _predicate(attributes, rng)
        filters.append(where & _predicate(attributes, rng) if rng.random() < 0.5 else where)
    return filters


def _predicate(attributes: pa.Table, rng: np.random.Generator) -> Filter:
    name = attributes.column_names[int(rng.integers(attributes.num_columns))]
    kind = attributes.schema.field(name).type
    column = col(name)
    if is_point(kind):
        return _circle(column, degrees_of(attributes[name]), rng)
    present = attributes[name].drop_null()
    if not len(present) or rng.random() < 0.1:
        return column.is_null()
    first, second = (present[int(row)].as_py() for row in rng.integers(0, len(present), 2))
    where: Filter
    if pa.types.is_list(kind):
        where = column.has_any(first + second) if first + second else column.is_null()
    elif pa.types.is_string(kind):
        where = column.isin([first, second])
    elif pa.types.is_boolean(kind):
        where = column == first
    else:
        where = column.between(min(first, second), max(first, second))
    return ~where if rng.random() < 0.25 else where


def _circle(column: Column, degrees: Floats, rng: np.random.Generator) -> Filter:
    """Around a point that occurs, 1 to 20,000 kilometres."""
    places = degrees[~np.isnan(degrees[:, 0])]
    if not len(places):
        return column.is_null()
    latitude, longitude = places[int(rng.integers(len(places)))]
    where = column.within(latitude, longitude, km=10 ** rng.uniform(0, 4.3))
    return ~where if rng.random() < 0.25 else where
