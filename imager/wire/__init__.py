"""Multicast packets and agent messages. Pure: no I/O."""
