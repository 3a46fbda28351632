"""The attacks: the contract, and one file each."""
