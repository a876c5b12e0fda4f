"""From samples to rows and documents: tokens, texts, tokenizers, prefetching, worker processes."""
