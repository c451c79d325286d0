"""Who may speak and watch, and how much."""
