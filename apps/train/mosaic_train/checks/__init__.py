"""Checks before ranks start, one subject per module. Each raises with one line, or returns."""
