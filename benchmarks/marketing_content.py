"""Content by bandit and program on the Open Bandit Dataset: uplift, programs and exploration, one after another.

python -m benchmarks marketing_content [--obd FOLDER] [--hillstrom FILE] [--seeds 30] [--rounds 200] [--runs FOLDER]
                                       [--most CPU_SECONDS] [--write]

The folder holds `obd_random_all.csv.gz`, `obd_random_men.csv.gz` and the two `obd_item_context_*.csv` of the dataset's
small version. Its 20,000 decisions by lot hold 84 clicks, too few to tell policies apart; so each comparison is made
three times over:

1. Simulated responses: members are users of the dataset, known by the segment that their four features make; each
   segment's response to each content is drawn. The truth is known, and the policies learn from, and are judged by the
   doubly robust estimate on, decisions by lot.
2. The dataset's own clicks.
3. Hillstrom's e-mails, whose control group got none.

Contents are fifths of the items by their first feature; the first of them stands for no message. Volumes: 5 to 10, 5 to
30, 5 to 30 and 30 to 50 % of the members.
"""

# Shapes: N members, G segments, K+1 contents with content 0, I logged decisions.

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import expit, logit

from benchmarks._pieces import markdown, mean_interval, measured
from models.marketing import logistic
from models.marketing.adaptive import content
from models.marketing.adaptive.content import Volumes, choose, doubly_robust, rank, rank_in_turn, run_rounds
from models.marketing.logistic import fit_logistic
from models.marketing.prediction import exploration
from models.marketing.prediction.exploration import LastLayer, last_layer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "marketing_content.md"
CODE = [Path(str(module.__file__)) for module in (content, exploration, logistic)]

LINES = Volumes(names=("A", "B", "C", "D"), lower=(0.05, 0.05, 0.05, 0.30), upper=(0.10, 0.30, 0.30, 0.50))
MAILS = Volumes(names=("mens", "womens"), lower=(0.05, 0.05), upper=(0.50, 0.30))
SEGMENTS, RATE, SPREAD = 20, 0.05, 0.7
"""Of the simulated responses: segments, the rate of a typical one, and the standard deviation of logits."""
MEMBERS = 1000
"""Of a round, and of each program that a policy solves."""
LOGGED = 20_000
"""Decisions by lot in a simulated log, half to learn from."""
COST = 0.01
"""Of a send, in responses; of an e-mail of Hillstrom's, in visits: twice as much."""
WINDOW = 10
"""Rounds that a comparison is made over."""
POLICIES = (
    "incremental + program",
    "propensity + program",
    "propensity + ranking in turn",
    "incremental + ranking",
    "propensity + ranking",
)


def main(options: Sequence[str] = ()) -> None:
    """Measure what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks marketing_content")
    parser.add_argument("--obd", default="", help="folder of the Open Bandit Dataset's small version")
    parser.add_argument("--hillstrom", default="", help="the e-mail test as CSV; empty: left out")
    parser.add_argument("--seeds", type=int, default=30, help="worlds, and splits of the real data, 2 or more")
    parser.add_argument("--rounds", type=int, default=60, help="of the bandit, 50 or more")
    parser.add_argument("--runs", default="", help="folder of the pieces; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/marketing_content.md")
    chosen = parser.parse_args(options)
    if refused := refusal(chosen.obd):
        parser.error(refused)
    if chosen.seeds < 2 or chosen.rounds < 50:
        parser.error("--seeds must be at least 2 and --rounds at least 50.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    found = measured("marketing_content", _pieces(chosen), [*CODE, Path(__file__)], folder=chosen.runs,
                     most=chosen.most)  # fmt: skip
    if found is None:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen, found)
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def refusal(folder: str = "") -> str:
    """Why it cannot run."""
    if not folder or not (Path(folder) / "obd_random_all.csv.gz").exists():
        return "marketing_content needs --obd, a folder with obd_random_all.csv.gz and its companions."
    return ""


def _pieces(chosen: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    pieces: dict[str, Callable[[], Any]] = {}
    for seed in range(chosen.seeds):
        pieces[f"single {seed}"] = partial(single_turn, chosen.obd, seed)
        pieces[f"clicks {seed}"] = partial(_clicks, chosen.obd, seed)
        if chosen.hillstrom:
            pieces[f"mails {seed}"] = partial(_mails, chosen.hillstrom, seed)
        for explores in (False, True):
            pieces[f"bandit {chosen.rounds} {seed} {explores}"] = partial(
                bandit, chosen.obd, seed, chosen.rounds, explores=explores
            )
    return pieces


# ---------------------------------------------------------------------------------------------------- policies


def _policies(reward: Floats, volumes: Volumes) -> dict[str, Integers]:
    """What each policy chooses from expected rewards net of the cost, content 0 first.

    Incremental counts what a content brings above content 0; propensity, what is expected after it.
    """
    gross = reward.copy()
    gross[:, 0] = 0.0
    parts = np.array_split(np.arange(len(reward)), max(1, round(len(reward) / MEMBERS)))

    def by(chooser: Callable[[Floats, Volumes], Integers], rewards: Floats) -> Integers:
        return np.concatenate([chooser(rewards[part], volumes) for part in parts])

    choices = (
        by(choose, reward),
        by(choose, gross),
        by(rank_in_turn, gross),
        rank(reward),
        rank(gross),
    )
    return dict(zip(POLICIES, choices, strict=True))


def _judged(
    policies: Mapping[str, Integers], predicted: Floats, action: Integers, chance: Floats, reward: Floats
) -> dict[str, Any]:
    """Doubly robust estimates above content 0 for all, their errors, and how far the volumes are from their bounds."""
    nothing = doubly_robust(predicted, np.zeros(len(action), np.int64), action=action, chance=chance, reward=reward)
    found: dict[str, Any] = {}
    for name, choice in policies.items():
        rows = doubly_robust(predicted, choice, action=action, chance=chance, reward=reward).rows - nothing.rows
        found[name] = {
            "mean": float(rows.mean()),
            "error": float(rows.std(ddof=1) / np.sqrt(len(rows))),
            "shares": (np.bincount(choice, minlength=predicted.shape[1]) / len(choice)).tolist(),
        }
    return found


# ---------------------------------------------------------------------------------------------------- Open Bandit


@cache
def _users(folder: str) -> tuple[pd.DataFrame, Integers]:
    """Decisions by lot over all items, and the segment of each one's user: its four features, rare ones together."""
    table = pd.read_csv(Path(folder) / "obd_random_all.csv.gz", index_col=0)
    return table, _segments(table)


def _segments(table: pd.DataFrame) -> Integers:
    joined = table[[f"user_feature_{number}" for number in range(4)]].agg("|".join, axis=1)
    kept = joined.value_counts(sort=True).index[: SEGMENTS - 1]
    place = {name: number for number, name in enumerate(kept)}
    return np.array([place.get(name, SEGMENTS - 1) for name in joined], np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Simulated responses of the dataset's users.

    Attributes:
        segment: of the users.
        chance: (G, K+1) of a response.
    """

    segment: Integers
    chance: Floats


def _world(folder: str, seed: int) -> World:
    rng = np.random.default_rng((seed, 0))
    logits = logit(RATE) + SPREAD * rng.standard_normal((SEGMENTS, len(LINES.names) + 1))
    return World(segment=_users(folder)[1], chance=expit(logits))


def _one_hot(segment: Integers) -> Floats:
    return np.asarray(np.eye(SEGMENTS)[segment], np.float64)


def _prior() -> LastLayer:
    """Before anything is seen: every segment's logit round that of the typical rate."""
    return last_layer(np.full((len(LINES.names) + 1, SEGMENTS), logit(RATE)), np.empty((0, SEGMENTS)), np.empty(0, int),
                      prior=1 / SPREAD**2)  # fmt: skip


def _net(chance: Floats) -> Floats:
    net = chance.copy()
    net[:, 1:] -= COST
    return net


def single_turn(folder: str, seed: int) -> dict[str, Any]:
    """Learn from one half of decisions by lot, judge on the other; the true values beside the estimates."""
    world, rng = _world(folder, seed), np.random.default_rng((seed, 1))
    contents = len(LINES.names) + 1
    segment = rng.choice(world.segment, LOGGED)
    action = rng.integers(0, contents, LOGGED)
    reward = (rng.random(LOGGED) < world.chance[segment, action]).astype(np.float64)
    half = LOGGED // 2
    learned = _prior().learned(_one_hot(segment[:half]), action[:half], reward[:half], steps=20)
    late = slice(half, None)
    predicted = _net(np.asarray(expit(learned.logits(_one_hot(segment[late]))), np.float64))
    policies = _policies(predicted, LINES)
    found = _judged(policies, predicted, action[late], np.full(LOGGED - half, 1 / contents),
                    reward[late] - COST * (action[late] > 0))  # fmt: skip
    truth = _net(world.chance)[segment[late]]
    for name, choice in policies.items():
        found[name]["truth"] = float((truth[np.arange(len(choice)), choice] - truth[:, 0]).mean())
    return found


@cache
def _logged(folder: str) -> tuple[Integers, Integers, Floats, Floats]:
    """Segment, content, click and chance of the content of all decisions by lot, of both campaigns."""
    seg, act, won, chance = [], [], [], []
    for campaign in ("all", "men"):
        table = pd.read_csv(Path(folder) / f"obd_random_{campaign}.csv.gz", index_col=0)
        items = pd.read_csv(Path(folder) / f"obd_item_context_{campaign}.csv", index_col=0)
        order = items.sort_values(["item_feature_0", "item_id"])["item_id"].to_numpy()
        fifth = np.empty(len(order), np.int64)
        fifth[order] = np.arange(len(order)) * (len(LINES.names) + 1) // len(order)
        share = np.bincount(fifth) / len(order)
        action = fifth[table["item_id"].to_numpy()]
        seg.append(_segments(table))
        act.append(action)
        won.append(table["click"].to_numpy(np.float64))
        chance.append(share[action])
    return np.concatenate(seg), np.concatenate(act), np.concatenate(won), np.concatenate(chance)


def _clicks(folder: str, seed: int) -> dict[str, Any]:
    """The dataset's own clicks on both campaigns, learned on one half and judged on the other."""
    segment, action, clicked, chance = _logged(folder)
    early = np.random.default_rng((seed, 2)).random(len(segment)) < 0.5
    base = np.full((len(LINES.names) + 1, SEGMENTS), logit(clicked[early].mean()))
    prior = last_layer(base, np.empty((0, SEGMENTS)), np.empty(0, int), prior=1 / SPREAD**2)
    learned = prior.learned(_one_hot(segment[early]), action[early], clicked[early], steps=20)
    cost = COST * float(clicked[early].mean()) / RATE
    predicted = np.asarray(expit(learned.logits(_one_hot(segment[~early]))), np.float64)
    predicted[:, 1:] -= cost
    return _judged(_policies(predicted, LINES), predicted, action[~early], chance[~early],
                   clicked[~early] - cost * (action[~early] > 0))  # fmt: skip


# ---------------------------------------------------------------------------------------------------- Hillstrom


@cache
def _mailed(file: str) -> tuple[Floats, Integers, Floats]:
    """Features of the members, which e-mail each got, and whether she visited."""
    table = pd.read_csv(file)
    feature = np.column_stack(
        [
            table["recency"],
            np.log(table["history"]),
            table[["mens", "womens", "newbie"]],
            table["mens"] * table["womens"],
            *(table["zip_code"] == name for name in ("Rural", "Urban")),
            *(table["channel"] == name for name in ("Phone", "Web")),
        ]
    ).astype(np.float64)
    action = table["segment"].map({"No E-Mail": 0, "Mens E-Mail": 1, "Womens E-Mail": 2}).to_numpy(np.int64)
    return feature, action, table["visit"].to_numpy(np.float64)


def _mails(file: str, seed: int) -> dict[str, Any]:
    """Visits after no, a mens or a womens e-mail, a logistic regression for each, learned on one half."""
    feature, action, visit = _mailed(file)
    early = np.random.default_rng((seed, 3)).random(len(visit)) < 0.5
    cost = 2 * COST
    predicted = np.column_stack(
        [
            fit_logistic(feature[learned], visit[learned], ridge=5.0)(feature[~early])
            for learned in (early & (action == arm) for arm in range(3))
        ]
    )
    predicted[:, 1:] -= cost
    late = ~early
    return _judged(_policies(predicted, MAILS), predicted, action[late], np.full(int(late.sum()), 1 / 3),
                   visit[late] - cost * (action[late] > 0))  # fmt: skip


# ---------------------------------------------------------------------------------------------------- bandit


class Learner:
    """The last layer over segments as `content.run_rounds` wants it."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.known = _prior()

    def draws(self, context: Integers, rng: np.random.Generator) -> Floats:
        """Chances at weights drawn once for all members of the round."""
        return _net(np.asarray(expit(self.known.drawn(_one_hot(context), rng)), np.float64))

    def means(self, context: Integers) -> Floats:
        """Chances at the most likely weights."""
        return _net(np.asarray(expit(self.known.logits(_one_hot(context))), np.float64))

    def learn(self, context: Integers, choice: Integers, reward: Floats) -> None:
        """Take in responses."""
        self.known = self.known.learned(_one_hot(context), choice, reward, steps=5)


def bandit(folder: str, seed: int, rounds: int, *, explores: bool) -> dict[str, Any]:
    """Expected net response of each round; both policies meet the same members, and like choices the same luck."""
    world = _world(folder, seed)

    def contexts(number: int) -> Integers:
        return np.random.default_rng((seed, 4, number)).choice(world.segment, MEMBERS)

    def respond(number: int, context: Integers, choice: Integers) -> Floats:
        luck = np.random.default_rng((seed, 5, number)).random((MEMBERS, len(LINES.names) + 1))
        row = np.arange(MEMBERS)
        return (luck[row, choice] < world.chance[context, choice]).astype(np.float64)

    done = run_rounds(Learner(), LINES, contexts, respond, rounds=rounds, explores=explores, seed=seed)
    truth = _net(world.chance)
    low, high = LINES.counts(MEMBERS)
    earned, broken = [], 0
    for number, one in enumerate(done):
        earned.append(float(truth[contexts(number), one.choice].mean()))
        broken += int((one.loads < low).any() or (one.loads > high).any())
    found: dict[str, Any] = {"earned": earned, "broken": broken}
    if not explores:
        found["best"] = [
            float(truth[contexts(number), choose(truth[contexts(number)], LINES)].mean())
            for number in range(0, rounds, WINDOW)
        ]
    return found


# ---------------------------------------------------------------------------------------------------- page


def _table(found: Mapping[str, Any], part: str, seeds: int, volumes: Volumes, *, truth: bool) -> list[str]:
    """Policies with their estimates; differences to the first are paired by seed."""
    rows = []
    for name in POLICIES:
        pieces = [found[f"{part} {seed}"] for seed in range(seeds)]
        value = [100 * piece[name]["mean"] for piece in pieces]
        behind = [100 * (piece[POLICIES[0]]["mean"] - piece[name]["mean"]) for piece in pieces]
        shares = np.mean([piece[name]["shares"] for piece in pieces], axis=0)[1:]
        held = all(
            np.all(np.array(piece[name]["shares"])[1:] <= np.array(volumes.upper) + 1e-3)
            and np.all(np.array(piece[name]["shares"])[1:] >= np.array(volumes.lower) - 1e-3)
            for piece in pieces
        )
        rows.append(
            (
                name,
                mean_interval(value, digits=3),
                *((mean_interval([100 * piece[name]["truth"] for piece in pieces], digits=3),) if truth else ()),
                "" if name == POLICIES[0] else mean_interval(behind, digits=3),
                f"{np.mean([100 * piece[name]['error'] for piece in pieces]):.3f}",
                " / ".join(f"{100 * share:.0f}" for share in shares),
                "yes" if held else "no",
            )
        )
    head = ("policy", "doubly robust", *(("truth",) if truth else ()), "behind the first", "error of one estimate",
            "sent, % " + " / ".join(volumes.names), "volumes hold")  # fmt: skip
    between = [
        100 * (found[f"{part} {seed}"][POLICIES[1]]["mean"] - found[f"{part} {seed}"][POLICIES[2]]["mean"])
        for seed in range(seeds)
    ]
    return [
        *markdown(head, rows),
        "",
        f"{POLICIES[1]} is ahead of {POLICIES[2]} by {mean_interval(between, digits=3)}.",
    ]


def _page(chosen: argparse.Namespace, found: Mapping[str, Any]) -> list[str]:
    seeds, rounds = chosen.seeds, chosen.rounds
    pieces = {explores: [found[f"bandit {rounds} {seed} {explores}"] for seed in range(seeds)]
              for explores in (False, True)}  # fmt: skip
    earned = {explores: 100 * np.array([piece["earned"] for piece in each]) for explores, each in pieces.items()}
    best = 100 * np.array([piece["best"] for piece in pieces[False]])
    ahead = earned[True] - earned[False]
    starts = [*range(0, min(rounds, 100) - WINDOW + 1, WINDOW), *range(140, rounds - WINDOW + 1, 50)]
    learning = [
        (
            f"{start + 1} to {start + WINDOW}",
            f"{best[:, start // WINDOW].mean():.3f}",
            f"{earned[False][:, start : start + WINDOW].mean():.3f}",
            f"{earned[True][:, start : start + WINDOW].mean():.3f}",
            mean_interval(ahead[:, start : start + WINDOW].mean(1), digits=3),
        )
        for start in starts
    ]
    broken = sum(piece["broken"] for each in pieces.values() for piece in each)
    mails = (
        [
            "",
            "## Single decisions, visits after Hillstrom's e-mails",
            "",
            f"{seeds} random halvings of one data set, so intervals over halvings say how much the half that was "
            "learned from matters, and the error of one estimate how much the judging half can tell. Volumes: mens 5 "
            f"to 50 %, womens 5 to 30 %; an e-mail costs {2 * COST:g} visits. In visits per 100 members above no "
            "e-mail.",
            "",
            *_table(found, "mails", seeds, MAILS, truth=False),
        ]
        if chosen.hillstrom
        else []
    )
    command = f"python -m benchmarks marketing_content --obd FOLDER{' --hillstrom FILE' if chosen.hillstrom else ''}"
    return [
        "# Content by bandit and program",
        "",
        f"Written by `{command} --seeds {seeds} --rounds {rounds} --write`.",
        "",
        "Data: Open Bandit Dataset, small version (Saito et al. 2020)"
        + (", and the MineThatData e-mail test (Hillstrom 2008)." if chosen.hillstrom else "."),
        "",
        "Contents are five: fifths of the items by their first feature, the first of which stands for no message. "
        f"Volumes of the others: 5 to 10, 5 to 30, 5 to 30 and 30 to 50 % of each {MEMBERS:,} members. The program's "
        "answer is whole. Ranking gives every member her best content whatever the volumes, and may so be worth more; "
        "ranking in turn holds them, first come first served. Means with 95 % intervals over seeds by Student's t.",
        "",
        "## Single decisions, simulated responses",
        "",
        f"Users of the dataset in {SEGMENTS} segments; logits of response are drawn round that of {100 * RATE:g} % "
        f"with a standard deviation of {SPREAD:g}, a world for each of {seeds} seeds. {LOGGED:,} decisions by lot, "
        f"half to learn from and half to judge by; a send costs {COST:g} responses. In responses per 100 members "
        "above content 0 for all.",
        "",
        *_table(found, "single", seeds, LINES, truth=True),
        "",
        "## Single decisions, the dataset's own clicks",
        "",
        f"20,000 decisions by lot with 84 clicks; {seeds} random halvings. In clicks per 100 members above content 0 "
        "for all. Where the error of one estimate is larger than a difference, these clicks cannot tell the policies "
        "apart.",
        "",
        *_table(found, "clicks", seeds, LINES, truth=False),
        *mails,
        "",
        "## Learning while sending",
        "",
        f"The same simulated worlds, {rounds} rounds of {MEMBERS:,} members, from no knowledge. Greedy decides by the "
        "most likely weights of the last layer, Thompson sampling by weights drawn once a round; nothing else differs. "
        "In net responses per 100 members, expected at the true chances; best: the program that knows them.",
        "",
        *markdown(("updates", "best", "greedy", "Thompson sampling", "ahead"), learning),
        "",
        f"Volumes were broken in {broken} of {2 * seeds * rounds:,} rounds.",
    ]
