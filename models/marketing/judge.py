"""What a plan is worth: its certificate, how its rows are used, and where truth is known what it would really bring."""

# Shapes: N members, E pairs, K rows, S entries of a plan.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.judgement import Figure, Judgement, Series
from models.common.tables import flat
from models.marketing.allocation.program import NOTHING, Program
from models.marketing.certificate import Plan, certify_conflict, certify_plan, unspent
from models.marketing.generator import GeneratorConfig, generate
from models.marketing.planning import PlanConfig, account
from models.marketing.tables import program_of
from models.marketing.values import values_of

HEADLINE = "value"
SAME = 1e-6
"""Net values that differ by less, in mean values, may be called the same."""

BARS = 6
"""Rows of a figure: so many names stand side by side."""


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How a plan is judged before it goes live."""

    gap: float = setting(
        1e-3,
        "Largest gap",
        "How far the value of a plan of whole offers may lie below the bound that no plan exceeds, relative to it; "
        "1e-9 to 0.5.",
        ge=1e-9,
        le=0.5,
    )

    def __post_init__(self) -> None:
        check(self)


def judge(
    product: Payload,
    data: Payload,
    settings: PlanConfig,
    judgement: JudgementConfig,
    world: GeneratorConfig | None = None,
    network: torch.nn.Module | None = None,
) -> Judgement:
    """Judge a plan against the program made again from the data.

    Args:
        product: the plan's parts.
        data: the data set.
        settings: how the plan was made.
        judgement: the bar.
        world: the generated world behind the data, whose truth is known; None for a user's own tables.
        network: says what pairs are worth; None when the data do.

    Returns:
        The judgement. Of a program without any plan, the claims are about the proof, and one of them fails.

    Source:
        Ours; the reference is `models.marketing.certificate`.
    """
    program = program_of(data, most=settings.most, value=values_of(data, network))
    found = account(product)
    about = product["about"]
    if not about["solved"]:
        return Judgement(
            headline=HEADLINE,
            metrics={**found.metrics, "value": 0.0, "bound": 0.0, "gap": 1.0},
            certificate=_no_plan(program, product),
            table=found.table,
            protocol=data["about"]["protocol"],
        )
    plan = stored(program, product)
    certificate = certify_plan(program, plan, whole=settings.whole, gap=judgement.gap)
    if certificate.holds:  # else shapes may not fit
        certificate = Certificate(claims=(*certificate.claims, *_beside(program, product)))
    metrics = dict(found.metrics) | {claim.name: claim.value for claim in certificate.claims if claim.name == "gap"}
    if world is not None and certificate.holds:
        metrics |= _truth(world, program, plan)
    reasons = unspent(program, plan) if certificate.holds else ()
    words = {reason.row: reason.sentence() for reason in reasons}
    return Judgement(
        headline=HEADLINE,
        metrics=metrics,
        certificate=certificate,
        table=tuple({**row, "why": words.get(str(row["row"]), "")} for row in found.table),
        figures=(*_gap_figure(product["passes"].to_pylist(), about), _rows_figure(product["rows"], about["bound"])),
        protocol=data["about"]["protocol"],
    )


def stored(program: Program, product: Payload) -> Plan:
    """A stored plan with its names as numbers; a name that the program does not have has the number -1."""
    table, rows, about = product["plan"], product["rows"], product["about"]
    members = pa.array(np.asarray(program.members))
    return Plan(
        member=_places(flat(table, "member"), members),
        offer=_places(flat(table, "offer"), pa.array(program.offers)),
        share=np.asarray(flat(table, "share")),
        rows=tuple(flat(rows, "row").to_pylist()),
        prices=np.asarray(flat(rows, "price")),
        loads=np.asarray(flat(rows, "load")),
        value=about["value"],
        bound=about["bound"],
    )


def _places(names: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    if names.type != known.type:
        names, known = pc.cast(names, pa.string()), pc.cast(known, pa.string())
    place = pc.fill_null(pc.index_in(names, value_set=known), -1)
    return np.asarray(place.to_numpy(zero_copy_only=False), np.int64)


def _beside(program: Program, product: Payload) -> tuple[Claim, ...]:
    """Whether what is kept for its readers beside the plan says the same: bounds of the rows, and the policy."""
    rows = product["rows"]
    bounds = [
        np.asarray(pc.fill_null(flat(rows, side), none)) != own
        for side, none, own in (("lower", -np.inf, program.lower), ("upper", np.inf, program.upper))
    ]
    prices = dict(zip(program.names, flat(rows, "price").to_pylist(), strict=True))
    other = list(_said_otherwise(program, product["policy"], prices))
    wrong = np.flatnonzero(bounds[0] | bounds[1])
    first = f" The first is {program.names[wrong[0]]!r}." if len(wrong) else ""
    return (
        Claim(
            name="bounds_misstated",
            kind="exact",
            value=float(len(wrong)),
            limit=0.0,
            detail=f"Rows whose bounds beside their load are not those of the data.{first}",
        ),
        Claim(
            name="policy_off",
            kind="exact",
            value=float(len(other)),
            limit=0.0,
            detail="Offers, families and shares of the indifferent of which the policy says something else than plan "
            f"and data; the first is {next(iter(other), 'none')}.",
        ),
    )


def _said_otherwise(program: Program, policy: Mapping[str, Any], prices: Mapping[str, float]) -> Iterator[str]:
    """What a policy says otherwise than plan and data: by it, others would be decided for otherwise."""
    yield from sorted(set(policy["offers"]) ^ set(program.offers))
    told = {family["name"]: family for family in policy["families"]}
    yield from sorted(told.keys() ^ {family.name for family in program.families})
    if len(told) < len(policy["families"]):
        yield "a family that stands twice"
    for family in program.families:
        by = "offers" if family.offers is not None else "members" if family.members is not None else ""
        rows = family.rows if by else (family.name,)
        row_of = {} if family.offers is None else dict(zip(program.offers, np.asarray(family.offers), strict=True))
        right = {
            "prices": {row: prices[name] for row, name in zip(rows, family.names, strict=True)},
            "weighted": family.weight is not None,
            "by": by,
            "row_of": {offer: rows[place] for offer, place in row_of.items() if place != NOTHING},
        }
        if {**told.get(family.name, {}), **right} != told.get(family.name):
            yield family.name
    if policy["most"] != program.most:
        yield "most"
    if not 0 <= policy["width"] <= SAME * (float(np.abs(program.value).mean(dtype=np.float64)) or 1.0):
        yield "width"
    for tie in policy["ties"]:
        shares = np.asarray(tie["shares"], np.float64)
        known = set(tie["options"]) <= set(program.offers) and len(tie["options"]) == len(shares)
        # shares were added up in float32
        if not (known and (shares >= 0).all() and (shares <= 1 + 1e-6).all() and shares.sum() <= tie["slots"] + 1e-5):
            yield f"the tie of {', '.join(tie['options'])}"


def _no_plan(program: Program, product: Payload) -> Certificate:
    """The claim that no product without a plan meets, and those about the proof."""
    about = product["about"]
    if "unroundable" in about:
        detail = f"There is no plan of whole offers: {about['unroundable']} Or plan shares."
        return Certificate(claims=(Claim(name="rows_unroundable", kind="exact", value=1.0, limit=0.0, detail=detail),))
    proof = certify_conflict(
        program,
        ray=np.asarray(flat(product["rows"], "price")),
        rows=about["conflict"],
        needed=about["needed"],
        available=about["available"],
    )
    claim = Claim(
        name="rows_in_conflict",
        kind="exact",
        value=float(len(about["conflict"])),
        limit=0.0,
        detail=f"There is no plan: {about['sentence']}. Widen one of these rows.",
    )
    return Certificate(claims=(claim, *proof.claims))


def _truth(world: GeneratorConfig, program: Program, plan: Plan) -> dict[str, float]:
    """What the plan would bring in the generated world."""
    truth = generate(world)
    pairs = pairs_of_plan(program, plan)
    true = truth.true_value
    return {
        "true_value": float((true[pairs] * plan.share).sum()),
        "true_value_per_member": float((true[pairs] * plan.share).sum() / program.N),
        "organic_value_per_member": float(truth.organic_value.mean()),
    }


def pairs_of_plan(program: Program, plan: Plan) -> NDArray[np.int64]:
    """Number of the pair of each entry; some other pair where the program has none."""
    key = program.member_of(np.arange(program.E)) * program.M + program.offer
    order = np.argsort(key, kind="stable")
    wanted = plan.member * program.M + plan.offer
    return np.asarray(order[np.minimum(np.searchsorted(key[order], wanted), len(order) - 1)])


def _gap_figure(passes: list[Mapping[str, Any]], about: Mapping[str, Any]) -> tuple[Figure, ...]:
    """How the gap fell; nothing where there is no fall to be seen."""
    shown = [(one["pass"], one["gap"]) for one in passes if np.isfinite(one["gap"]) and one["gap"] > 0]
    if len(shown) < 2:
        return ()
    return (
        Figure(
            name="gap_by_pass",
            title=f"After {about['passes']} passes no shares are worth {about['solved_gap']:.2g} of the bound more",
            x_label="passes over the members",
            y_label="duality gap (share of the bound)",
            series=(Series(label="gap", x=tuple(one for one, _ in shown), y=tuple(gap for _, gap in shown)),),
            caption=f"As the solver takes it. Whole offers, as certified: {about['gap']:.2g}.",
            log_y=True,
        ),
    )


def _rows_figure(rows: pa.Table, bound: float) -> Figure:
    """The rows that hold the value down, dearest first: what their bounds are worth at their prices."""
    binding = [row for row in rows.to_pylist() if row["price"]]
    worth = {row["row"]: row["price"] * (row["upper" if row["price"] > 0 else "lower"] or 0.0) for row in binding}
    dearest = sorted(worth, key=lambda row: -abs(worth[row]))[:BARS]
    return Figure(
        name="binding_rows",
        title=f"{len(binding)} of {rows.num_rows} rows hold the value down",
        x_label="row",
        y_label="shadow price times bound (% of the bound on the value)",
        series=(
            Series(
                label="worth",
                x=tuple(dearest) or ("none",),
                y=tuple(100 * worth[row] / max(abs(bound), 1e-300) for row in dearest) or (0.0,),
            ),
        ),
        kind="bars",
        caption="Above zero: an upper bound that more would be bought under; below: a lower bound that costs. "
        f"The {BARS} dearest.",
    )
