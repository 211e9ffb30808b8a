"""Published bars against the raw archive: recomputed, compared, explained, repaired.

    raw ticks ──▶ month_bars, nothing too late ──▶ compare ◀── month files, open parts
        │                                             │ where they differ
        │         month_bars, as live had them ──▶ causes ──▶ report (table, JSON, metrics)
        └──▶ accounts: what arrived, how late          └──▶ repair: the days that differ

A difference is explained if the rules that live ran under give what live published. One that is not
is a defect.
"""
