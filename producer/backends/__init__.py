"""How a generator's networks are run: eager, and compiled in several ways."""
