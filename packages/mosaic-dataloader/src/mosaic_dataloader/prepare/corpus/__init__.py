"""Documents, wherever they come from, in blocks that any process may work on."""
