"""What is wrong with the data, or costs something, before the first step: for every trainer.

Each check returns lines, none where all is well. Names of options in them are those of the Python
API; a caller whose options are called otherwise passes what comes before the name.
"""
