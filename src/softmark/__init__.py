"""softmark: mark neural networks through their soft labels, attack the mark, judge what is left."""
