"""One cell: its plan, its stages, its verdict, its record."""
