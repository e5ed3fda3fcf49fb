"""Claims that need no run of ours: theory, sizes, and what other papers report."""
