"""From samples to rows: what texts become, and by which tokenizer."""
