"""The data position: what a checkpoint holds, and whether it fits the run that loads it."""
