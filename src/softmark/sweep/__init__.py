"""Many cells: the command line, and how workers share the stages."""
