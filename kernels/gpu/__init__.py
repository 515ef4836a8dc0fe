"""The Triton side of the operations, one file for each; imported by the first launch."""
