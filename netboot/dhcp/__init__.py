"""Who gets which address and which boot file. Pure: no I/O."""
