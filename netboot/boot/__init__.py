"""Which boot file a machine gets, rendered when it is asked for."""
