"""The words of the command ``softmark``: mark, probes, verify, recheck, run, report, store."""
