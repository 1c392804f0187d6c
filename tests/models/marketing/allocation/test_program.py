from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from models.common.contracts import InputError
from models.marketing.allocation.partitioned import Partitioned
from models.marketing.allocation.program import Family, Limits, Program
from tests.models.marketing.allocation.worlds import world

PAIRS = {
    "member": ["ann", "bob", "ann", "eve", "bob"],
    "offer": ["mail", "push", "push", "mail", "mail"],
    "value": [3.0, 2.0, 1.0, 5.0, 0.5],
    "cost": [1.0, 0.1, 0.2, 1.5, 1.0],
}
OFFERS = {"offer": ["push", "mail"], "channel": ["app", "post"]}
MEMBERS = {"member": ["eve", "ann", "bob", "zoe"], "country": ["de", "fr", "de", "fr"], "most": [1.0, 2.0, 1.0, 0.0]}
LIMITS = (
    Limits(name="spend", weight="cost", bounds={"spend": (0.5, 2.0)}),
    Limits(name="volume", by="channel", bounds={"post": (-np.inf, 2.0), "app": (1.0, np.inf)}),
    Limits(name="reach", by="country", bounds={"de": (-np.inf, 1.0)}),
)


def named() -> Program:
    return Program.from_pairs(PAIRS, limits=LIMITS, offers=OFFERS, members=MEMBERS, most="most")


def changed(program: Program, number: int, **parts: object) -> Program:
    families = list(program.families)
    families[number] = replace(families[number], **parts)
    return replace(program, families=tuple(families))


def test_rows_offers_and_members_are_found_by_name() -> None:
    program = named()
    assert program.names == ("spend", "volume/post", "volume/app", "reach/de")
    assert program.offers == ("push", "mail")
    assert (program.N, program.M, program.E, program.K) == (4, 2, 5, 4)
    x = np.zeros(5)
    for pair in range(5):
        member, offer = int(program.member_of(np.array([pair]))[0]), program.offers[program.offer[pair]]
        x[pair] = (program.name_of(member), offer) in {("ann", "mail"), ("bob", "push")}
    # ann's mail costs 1 and goes by post from France; bob's push costs 0.1 and goes by app from Germany
    assert program.loads(x) == pytest.approx([1.1, 1.0, 1.0, 1.0])
    assert program.most_of(np.array([0, 1, 3])).tolist() == [1.0, 2.0, 0.0]


def test_the_order_of_tables_changes_names_places_and_nothing_else() -> None:
    turned = Program.from_pairs(
        pd.DataFrame(PAIRS).iloc[::-1],
        limits=LIMITS[::-1],
        offers=pa.table({name: column[::-1] for name, column in OFFERS.items()}),
        members=pd.DataFrame(MEMBERS).iloc[[2, 3, 0, 1]],
        most="most",
    )
    plain = named()

    def loads(program: Program) -> dict[str, float]:
        worth = np.sqrt(program.value)  # any function of the pair
        return dict(zip(program.names, program.loads(worth), strict=True))

    assert loads(turned) == pytest.approx(loads(plain))
    assert turned.offers == ("mail", "push")


def test_without_tables_offers_and_members_come_in_the_order_of_their_first_pair() -> None:
    program = Program.from_pairs(pa.table(PAIRS), limits=LIMITS[:1])
    assert program.offers == ("mail", "push")
    assert list(program.members or ()) == ["ann", "bob", "eve"]
    assert program.start.tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"limits": (Limits(name="spend", weight="price", bounds={"spend": (0, 1)}),)}, "no column 'price'"),
        (
            {"limits": (Limits(name="volume", by="channel", bounds={"sms": (0, 1)}),)},
            "'sms', column 'channel' holds app",
        ),
        (
            {"limits": (Limits(name="volume", by="line", bounds={"sms": (0, 1)}),)},
            "neither table of offers nor of members",
        ),
        ({"limits": (Limits(name="spend", bounds={"all": (0, 1)}),)}, "give one bound, named 'spend'"),
        ({"offers": {"offer": ["push"], "channel": ["app"]}}, "pair 0 is of offer 'mail'"),
        ({"members": {"member": ["ann", "ann", "bob", "eve"]}, "limits": ()}, "member 'ann' occurs twice"),
        ({"pairs": PAIRS | {"value": [1.0, np.nan, 1, 1, 1]}}, "value of member 'bob' and offer 'push' is nan"),
        (
            {"pairs": PAIRS | {"cost": [1.0, 1, 1, np.inf, 1]}},
            "weight of 'spend' of member 'eve' and offer 'mail' is inf",
        ),
        ({"pairs": PAIRS | {"offer": ["mail", "push", "mail", "mail", "mail"]}}, "'ann' has offer 'mail' twice"),
        ({"pairs": PAIRS | {"member": ["ann", "bob", None, "eve", "bob"]}}, "'member' has 1 empty"),
        ({"pairs": PAIRS | {"member": [1.0, 2.0, np.nan, 4.0, 2.0]}}, "'member' has 1 empty"),
        ({"pairs": PAIRS | {"member": ["ann", "", "ann", "eve", "bob"]}, "members": None}, "member of pair 1 has no"),
        ({"pairs": PAIRS | {"value": ["3", "two", "1", "5", "0"]}}, "column 'value' holds what is no number .*two"),
        ({"pairs": PAIRS | {"cost": [1.0, 2.0]}}, "column 'cost' has 2 entries, the table has 5 rows"),
        ({"pairs": PAIRS | {"offer": ["mail", "push"]}}, "the pairs have 5 members and 2 offers"),
        ({"pairs": PAIRS | {"value": [1.0, 1e200, 1, 1, 1]}}, "value of member 'bob' and offer 'push' is 1e.200"),
        (
            {"limits": (Limits(name="spend", weight="cost", bounds={"spend": 3.0}),)},  # type: ignore[dict-item]
            "limits 'spend' bound 'spend' by 3.0; give the least and the most",
        ),
        ({"most": "country"}, "column 'country' holds what is no number"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(parts: dict[str, object], words: str) -> None:
    given = {"pairs": PAIRS, "limits": LIMITS, "offers": OFFERS, "members": MEMBERS} | parts
    if given["members"] is None:
        given["limits"] = LIMITS[:1]
    with pytest.raises(InputError, match=words):
        Program.from_pairs(given.pop("pairs"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda p: changed(p, 0, lower=np.array([3.0])), "row 'spend' has lower 3 above upper 2"),
        (lambda p: changed(p, 0, lower=np.array([np.nan])), "lower of row 'spend' is nan"),
        (lambda p: changed(p, 0, upper=np.array([-np.inf])), "upper of row 'spend' is -inf"),
        (lambda p: changed(p, 0, weight=np.ones(3)), "weight of family 'spend'"),
        (lambda p: changed(p, 1, members=np.zeros(4, int)), "groups offers and members"),
        (lambda p: changed(p, 1, offers=np.array([0, 2])), r"offers\[1\] of family 'volume' is 2"),
        (lambda p: changed(p, 1, rows=("post", "post")), "'post' occurs twice"),
        (lambda p: changed(p, 1, rows=("post", "")), "has no name"),
        (lambda p: changed(p, 1, offers=None), "has 2 rows and no groups"),
        (lambda p: replace(p, most=np.array([1.0, -1, 1, 1])), "most of member 'ann' is -1"),
        (lambda p: replace(p, most=np.ones(2)), "most has the shape"),
        (lambda p: replace(p, most=[1.0, 1.0, 1.0, 1.0]), "most is a list"),
        (lambda p: replace(p, start=np.array([0, 1, 3, 2, 5])), "start must rise"),
        (lambda p: replace(p, offer=p.offer.astype(np.int64)), "offer must be int16 or int32"),
        (lambda p: replace(p, offer=np.array([0, 5, 0, 1, 0], np.int16)), "offer number 5, there are 2"),
        (lambda p: replace(p, value=p.value.astype(int)), "value must be float32 or float64"),
        (lambda p: replace(p, offers=("push", "push")), "offer 'push' occurs twice"),
        (lambda p: replace(p, members=["a"]), "1 members are named"),
    ],
)
def test_a_program_that_cannot_be_solved_says_what_is_wrong(broken: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        broken(named()).check()  # type: ignore[operator]


def test_loads_are_sums_over_pairs() -> None:
    program = world(3, members=47, offers=5)
    x = np.random.default_rng(0).random(program.E)
    expected = np.zeros(program.K)
    member = np.repeat(np.arange(program.N), np.diff(program.start))
    for family, first in zip(program.families, program.first, strict=True):
        for pair in range(program.E):
            row = 0
            if family.offers is not None:
                row = family.offers[program.offer[pair]]
            if family.members is not None:
                row = family.members[member[pair]]
            if row >= 0:
                expected[first + row] += x[pair] * (1 if family.weight is None else family.weight[pair])
    assert program.loads(x) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(InputError, match="give one for each"):
        program.loads(x[1:])


def test_a_part_of_the_members_keeps_its_own_pairs() -> None:
    program = world(4, members=47, offers=5, most="mixed")
    members = np.array([40, 3, 17])
    part = program.take(members)
    x = np.zeros(program.E)
    pairs = program.pairs_of(members)
    x[pairs] = np.random.default_rng(1).random(len(pairs))
    assert part.loads(x[pairs]) == pytest.approx(program.loads(x))
    assert part.most_of(slice(0, 3)).tolist() == program.most_of(members).tolist()
    assert part.check().value.tolist() == program.value[pairs].tolist()


def test_parts_must_be_of_one_program() -> None:
    program = world(5, members=40)
    left, right = program.take(np.arange(20)), program.take(np.arange(20, 40))
    whole = Partitioned([lambda: left, lambda: right])
    assert (whole.N, whole.E, whole.K) == (program.N, program.E, program.K)
    assert whole.take(np.array([3, 25])).value.tolist() == program.take(np.array([3, 25])).value.tolist()
    other = changed(right, 0, upper=np.array([1e9]))
    with pytest.raises(InputError, match="part 1 has other bounds"):
        Partitioned([lambda: left, lambda: other])
    with pytest.raises(InputError, match="at least one loader"):
        Partitioned([])
    with pytest.raises(InputError, match="part 1 has other offers"):
        Partitioned([lambda: left, lambda: replace(right, offers=tuple("abcd"))])


def test_an_empty_family_name_is_refused() -> None:
    family = Family(name="", rows=("x",), lower=np.array([0.0]), upper=np.array([1.0]))
    with pytest.raises(InputError, match="has no name"):
        replace(named(), families=(family,)).check()
