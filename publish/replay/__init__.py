"""History to bars, by the code that live runs on: `perpflow replay`, and what the audit recomputes.

    sources/ ─▶ importing.py ─▶ scratch area ┐
                                             ├─▶ ticks_in.py ─▶ month.py ─▶ writing.py ─▶ store
                            own raw archive ─┘   plan.py, work.py: which months, and where

One engine reads one form, row groups of raw ticks; what else there is, is first brought into it.
"""
