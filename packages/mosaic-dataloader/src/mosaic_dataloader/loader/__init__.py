"""The dataloader: batches, threads, worker processes, state."""
