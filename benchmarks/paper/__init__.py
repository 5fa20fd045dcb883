"""The parts of `paper_tables.py`: what is compared, how it runs, what comes of it."""
