"""What each compression costs in accuracy and what it buys, beside what other tools make of the same float student."""
