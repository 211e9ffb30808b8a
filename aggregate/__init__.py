"""Ticks to bars: hold → seal → compute, then a ladder of merges. Knows nothing of files.

    tick records ─▶ watermark ─▶ seconds (hold, order, drop copies) ─▶ datasets ─▶ rollup ─▶ bars
                     (time only moves by punctuation)                (1s rows)    (15s … 1d)

Everything but `aggregator.py`, the daemon, is pure: no I/O, no asyncio, no clock.
"""
