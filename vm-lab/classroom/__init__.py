"""A classroom of emulated machines on a private network: what the demo and the lab tests boot, image and prove."""
