"""Partition tables, used blocks, reading and writing disks."""
