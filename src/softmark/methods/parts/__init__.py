"""What several watermarks share: losses, controls, the detector, trigger sets, soft labels."""
