"""Evidence, null distributions, and the judge."""
