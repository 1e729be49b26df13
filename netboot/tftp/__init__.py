"""One TFTP transfer at a time. Pure: no I/O."""
