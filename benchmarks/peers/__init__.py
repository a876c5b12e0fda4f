"""Other loaders, each set up as its own documentation recommends for pre-tokenized rows."""
