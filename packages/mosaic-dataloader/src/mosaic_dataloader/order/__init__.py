"""The order of samples: a pure function of data, options, seed and epoch."""
