"""`--inspect-data`: what the run will read, looked at without starting a rank."""
