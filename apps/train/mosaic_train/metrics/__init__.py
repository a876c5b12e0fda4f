"""What the data loader counts, in TorchTitan's log, TensorBoard and Weights & Biases."""
