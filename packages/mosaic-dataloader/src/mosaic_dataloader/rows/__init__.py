"""From samples to rows: input and label tensors."""
