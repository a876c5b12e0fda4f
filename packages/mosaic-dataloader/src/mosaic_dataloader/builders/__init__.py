"""From a trainer's configuration to loaders and tokenizers."""
