"""Checks before ranks start of what concerns Mosaic data or the dump folder.

Those of TorchTitan's own options are `mosaic_trainspec.checks`; these are of the same kind, and
`setup` calls both so that none hides another.
"""
