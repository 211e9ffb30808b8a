"""The commands of perpflow.py that have many flags: each reads them and calls one function.

What a command needs is imported when it runs, so that `--help` and refusals are immediate.
"""
