"""What knows nothing of data: locks, threads, secrets, errors of stores, checks of arguments."""
