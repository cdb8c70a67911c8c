"""The papers' figures, one family a module: each function takes records and returns a matplotlib figure."""
