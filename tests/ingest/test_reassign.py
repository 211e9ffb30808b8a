"""ingest/reassign.py: every stream on one connection, within the venue's limits, few touched."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument
from ingest.reassign import reassigned
from ingest.venues import Endpoint, venue

CASES = st.sampled_from(
    [(BINANCE, "trade"), (BINANCE, "aggTrade"), (OKX, "trades-all"), (HYPERLIQUID, "trades")]
)


def instrument(exchange: str, number: int) -> Instrument:
    return Instrument(exchange, f"N{number}", f"perpetual-N{number}-USDT:USDT")


def channels(endpoints: list[Endpoint]) -> list[tuple[str, str]]:
    return list(chain.from_iterable(endpoint.channels for endpoint in endpoints))


@given(
    case=CASES,
    before=st.integers(1, 230),
    gone=st.sets(st.integers(0, 229), max_size=20) | st.just(set(range(230))),
    added=st.integers(0, 120),
)
def test_after_a_change_every_stream_is_carried_once(
    case: tuple[str, str], before: int, gone: set[int], added: int
) -> None:
    exchange, trades = case
    old = [instrument(exchange, n) for n in range(before)]
    new = [instrument(exchange, 1000 + n) for n in range(added)]

    def make(instruments: list[Instrument]) -> list[Endpoint]:
        return venue(exchange).endpoints(instruments, trades)

    endpoints = make(old)
    names = {f"N{n}" for n in gone}
    kept, more = reassigned(endpoints, {i.native: i for i in old}, names, new, make)  # type: ignore[arg-type]
    assert len(kept) == len(endpoints)
    now = [endpoint for endpoint in kept if endpoint is not None] + more
    wanted = make([i for i in old if i.native not in names] + new)
    assert sorted(channels(now)) == sorted(channels(wanted))
    most = max((len(e.channels) for e in make(old + new)), default=0)
    assert all(0 < len(endpoint.channels) <= most for endpoint in now)
    for endpoint in now:  # whole, as the venue lays it out
        assert endpoint.acks > 0
        assert endpoint.subscribe
    if not added:
        untouched = [e for e in endpoints if not any(n in names for _, n in e.channels)]
        assert [e for e in untouched if any(e is k for k in kept)] == untouched
    if not names and len(new) == 1 and before < 90:
        assert not more or {e.path for e in more}.isdisjoint(e.path for e in endpoints)
