"""benchmarks/run.py: the table, and where it goes."""

import pytest

from benchmarks.result import Result, cpu_time
from benchmarks.run import BEGIN, END, HERE, entry, markdown, read, replaced, with_table


def test_the_table_shows_what_was_measured_against_its_target() -> None:
    results = [
        Result("frames parsed", 300_000.4, "frames/s", 250_000),
        Result("seal", 31.0, "ms", 25.0, better="lower"),
        Result("other", 1.0, "x"),
    ]
    assert markdown(results).splitlines()[2:] == [
        "| frames parsed | 300,000 | ≥ 250,000 | frames/s | met |",
        "| seal | 31 | ≤ 25 | ms | **missed** |",
        "| other | 1 |  | x |  |",
    ]
    assert entry(results[1]) == {
        "value": 31.0,
        "unit": "ms",
        "target": 25.0,
        "detail": {},
        "better": "lower",
    }


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_table(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="lacks the lines"):
        with_table("no markers", "new")


def test_cpu_time_counts_work() -> None:
    with cpu_time() as cpu:
        sum(range(1_000_000))
    assert 0 < cpu.seconds < 10


def test_figures_of_one_benchmark_take_the_place_of_its_earlier_ones() -> None:
    kept = [Result("a", 1.0, "x"), Result("b", 2.0, "x", 3.0)]
    now = [Result("c", 5.0, "x"), Result("b", 4.0, "x", 3.0)]
    assert replaced(kept, now) == [kept[0], now[1], now[0]]


def test_the_published_table_is_that_of_the_published_results() -> None:
    table = markdown(read(HERE / "results.json"))
    assert table in (HERE / "README.md").read_text()
