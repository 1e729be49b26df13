"""DHCP, PXE options and TFTP as bytes. Pure: no I/O."""
