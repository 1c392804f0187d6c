"""A live ranker in service: requests of the latest sessions asked again, and what came of them.

Asked again is as users ask, through what is served, one request after another in the order of time. What is answered is
held against the float64 reference, and chances against what users then did: if they drifted away from it, the ranker is
to be trained again.
"""

# Shapes: C candidates of all replayed sessions, N candidates of a session, T tasks.

import copy
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.common.certificate import Certificate, Claim
from models.common.contracts import Payload
from models.common.judgement import Judgement
from models.feed import recounting
from models.feed.events.contest import Contest, JudgementConfig
from models.feed.events.kept import Kept, Ranking
from models.feed.events.known import Asked, Item
from models.feed.events.splits import Split
from models.feed.events.table import Events

Floats = NDArray[np.float64]
N = TypeVar("N", bound=nn.Module)

CACHE_BYTES = 64 * 2**20
"""Memory for histories while a watch replays."""

REPLAYS = 1000
"""Most sessions that one watch asks about again."""


def watch(
    model: str,
    network: N,
    data: Payload,
    settings: JudgementConfig,
    *,
    carried_over: Callable[[N, Payload, Payload], N],
    opened: Callable[[N, Payload], Ranking],
    reference: Callable[[N, Mapping[str, Floats], Payload], Callable[[int], Floats]],
) -> Judgement:
    """Replay sampled sessions of the test part of the latest events, and judge the answers.

    Args:
        model: its name, for figures.
        network: what is live.
        data: the data set that it was made from; its part `latest`, where there is one, has later events, for whose
            users and items the network is carried over by their identifiers.
        settings: how many sessions the reference scores, seed, and how far calibration may be off.
        carried_over: the network for another data set than the first, the second.
        opened: a network as for service on a data set; the network is its own from then on.
        reference: of network, its weights in float64 and a data set, what gives logits (N, T) of a session in float64,
            by its number in the log.

    Returns:
        The judgement: agreement with the reference, drift of the calibration, AUC with its interval, latency.

    Raises:
        ValueError: the replayed events have one kind of response alone, or the latest events have other tasks.

    Source:
        Ours.
    """
    latest: Payload = data
    if "latest" in data:
        latest = data["latest"]
        network = carried_over(network, data, latest)
    plain = {name: np.array(value.numpy(), np.float64) for name, value in network.state_dict().items()}
    ranking = opened(copy.deepcopy(network), latest)
    events, split = Events.from_payload(latest), Split.from_payload(latest)
    every = np.unique(events.session[split.test])
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(every)[:REPLAYS])
    rows, logit, chance, taken = replay(ranking, events, chosen)
    contest = Contest.of(model, events, latest, rows, logit[:, 0], chance[:, 0])
    metrics = contest.metrics(settings)
    log = recounting.Log.of(latest)
    scored = recounting.Scored(rows=rows, logit=logit, chance=chance, batch=logit)
    finite = recounting.finite(plain)
    claims = [finite, *recounting.honest(log, scored, settings.calibration)]
    if finite.holds:
        claims += [
            recounting.scored_again(
                reference(network, plain, latest), log, scored, "served_score_error", settings.sessions, settings.seed
            ),
            recounting.chances_kept(plain, scored),
            recounting.disorder(plain, scored),
        ]
    claims.append(
        Claim(
            name="auc_low",
            kind="statistical",
            value=metrics["auc_low"],
            limit=0.5,
            sense="at least",
            detail=f"Lower end of the 95 % interval of the AUC over {len(np.unique(contest.user))} users; if it is "
            f"below, orders are no better than drawn: roll back, or train again.",
        )
    )
    p50, p95 = np.quantile(taken, [0.5, 0.95])
    counts = ranking.counts()
    metrics |= {
        "requests": float(len(chosen)),
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
        "cache_hit_rate": float(counts["cache_hit_rate"]),
        "bytes_held": float(counts["bytes"]),
    }
    return Judgement(
        headline="auc",
        metrics=metrics,
        certificate=Certificate(claims=tuple(claims)),
        table=contest.table(),
        figures=contest.figures(),
        protocol=f"{len(chosen)} of the {len(every)} latest sessions, asked again one after another in the order of "
        f"time, each at the moment when it began.",
    )


def replay(
    ranking: Ranking, events: Events, sessions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], Floats, list[float]]:
    """Ask for what sessions showed, by identifiers, in the order of time.

    Args:
        ranking: what is asked.
        events: the log that it was opened on.
        sessions: numbers of sessions in the log.

    Returns:
        Row numbers (C), rising, their logits (C, T) and chances (C, T), and milliseconds for each session.
    """
    order = np.argsort(events.session, kind="stable")
    start = np.searchsorted(events.session[order], sessions)
    end = np.searchsorted(events.session[order], sessions, side="right")
    shown = [order[low:high] for low, high in zip(start, end, strict=True)]
    users, items = events.user_ids.to_pylist(), events.item_ids.to_pylist()
    rows, logit, chance, taken, nothing = [], [], [], list[float](), Kept(0)
    for some in sorted(shown, key=lambda some: int(events.time[some[0]])):
        asked = Asked(
            user=users[events.user[some[0]]],
            history=None,
            time=int(events.time[some[0]]),
            candidates=tuple(Item(items[code]) for code in events.item[some]),
        )
        began = time.perf_counter()
        scores = ranking.rank(asked, nothing)
        taken.append(1000 * (time.perf_counter() - began))
        rows.append(some)
        logit.append(scores.logit)
        chance.append(scores.chance)
    row = np.concatenate(rows)
    place = np.argsort(row, kind="stable")
    return row[place], np.concatenate(logit)[place], np.concatenate(chance)[place], taken
