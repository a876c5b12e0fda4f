"""Real stores on loopback, and a proxy before them that is slow or at fault on request."""
