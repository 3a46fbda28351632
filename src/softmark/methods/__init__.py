"""The watermarks: the contract, and one file a paper."""
