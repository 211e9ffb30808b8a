"""Market time, with a clock that is set by hand."""

from ingest.simulator.clock import MarketClock


def test_it_runs_at_its_speed_while_it_is_not_paused() -> None:
    real = 1_000
    clock = MarketClock(20.0, lambda: real)
    real += 50
    assert clock.now() == 0
    clock.resume()
    real += 5
    assert clock.now() == 100
    clock.pause()
    real += 1_000
    assert clock.now() == 100


def test_what_could_not_be_kept_up_with_is_not_made_up_for() -> None:
    real = 0
    clock = MarketClock(20.0, lambda: real)
    clock.resume()
    real += 10
    clock.slip(150)
    assert clock.now() == 50
    real += 10
    assert clock.now() == 250
