"""Why a machine does not boot: what it did, step by step, and what that means."""
