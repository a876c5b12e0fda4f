"""Checks before ranks start, one subject per module.

A check raises one mistake, with one line, or returns; what only costs something it notes in the
report. `setup` calls them so that none hides another.
"""
