import pytest

from ingest.venues import VENUES, Notice, ParseReport, venue
from tests.ingest.parsing import instrument


def test_venues_by_name() -> None:
    assert list(VENUES) == ["binance-futures", "okx-perps", "hyperliquid-perps"]
    assert venue("okx-perps").name == "okx-perps"
    with pytest.raises(ValueError, match=r"'bybit': known are binance-futures, okx-perps"):
        venue("bybit")


@pytest.mark.parametrize("name", VENUES)
def test_every_trades_channel_has_endpoints(name: str) -> None:
    declared = venue(name)
    contract = instrument(name, "BTC")
    assert declared.endpoints([contract]) == declared.endpoints(
        [contract], trades=declared.trade_channels[0]
    )
    for trades in declared.trade_channels:
        found = [c for e in declared.endpoints([contract], trades=trades) for c in e.channels]
        assert (trades, "BTC") in found
        assert len(found) == 2
    assert declared.endpoints([]) == []


def test_reports_add_up() -> None:
    total, more = ParseReport(), ParseReport()
    for report, payload in ((total, b"first"), (more, b"second" * 100)):
        report.frames, report.trades, report.quotes, report.ignored = 4, 3, 2, 1
        report.add_malformed("not JSON", 1, payload)
        report.add_unknown("XUSDT")
        report.notices.append(Notice("pong"))
    more.add_malformed("trade without p", 2, b"x" * 300)
    total.merge(more)
    assert (total.frames, total.trades, total.quotes, total.ignored) == (8, 6, 4, 2)
    assert total.malformed == {"not JSON": 2, "trade without p": 1}
    assert total.examples == {"not JSON": (1, b"first"), "trade without p": (2, b"x" * 200)}
    assert total.unknown == {"XUSDT": 2}
    assert len(total.notices) == 2
