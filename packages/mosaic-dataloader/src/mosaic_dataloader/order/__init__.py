"""The order of samples: a pure function of (data, options, seed, epoch), without files or processes."""
