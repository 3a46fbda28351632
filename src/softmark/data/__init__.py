"""Samples: where they come from, and who holds which."""
