"""Shares: even, whole, and nothing moves that could have stayed."""

from hypothesis import given
from hypothesis import strategies as st

from ingest.log.sharing import Claim, share_out


def moved(before: dict[str, list[int]], after: dict[str, list[int]]) -> set[int]:
    was = {p: member for member, share in before.items() for p in share}
    return {p for member, share in after.items() for p in share if was.get(p, member) != member}


def claims(shares: dict[str, list[int]], generation: int = 1) -> dict[str, Claim]:
    return {member: Claim(generation, share) for member, share in shares.items()}


@given(st.integers(0, 40), st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1), min_size=1))
def test_over_any_comings_and_goings_only_what_must_move_does(
    count: int, generations: list[set[str]]
) -> None:
    shares: dict[str, list[int]] = {}
    for members in generations:
        staying = {m: shares.get(m, []) for m in members}
        shares_after = share_out(count, claims(staying))
        assert sorted(p for share in shares_after.values() for p in share) == list(range(count))
        sizes = [len(share) for share in shares_after.values()]
        assert max(sizes) - min(sizes) <= 1
        # Beyond its part a member can keep nothing; the larger parts go to who has most.
        least, larger = divmod(count, len(members))
        held = sorted((len(share) for share in staying.values()), reverse=True)
        must = sum(max(0, n - least - (i < larger)) for i, n in enumerate(held))
        assert len(moved(staying, shares_after)) == must
        shares = shares_after


def test_a_claim_of_an_earlier_generation_yields() -> None:
    shares = share_out(4, {"a": Claim(7, [0, 1]), "zombie": Claim(5, [0, 1, 2])})
    assert shares == {"a": [0, 1], "zombie": [2, 3]}


def test_claims_of_partitions_that_are_no_more_are_left_out() -> None:
    assert share_out(1, {"a": Claim(1, [0, 9, -1]), "b": Claim(1, [])}) == {"a": [0], "b": []}


def test_more_members_than_partitions() -> None:
    assert share_out(1, claims({"b": [], "a": [], "c": [0]})) == {"a": [], "b": [], "c": [0]}
