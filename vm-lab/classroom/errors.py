"""What the lab raises on purpose."""


class LabError(Exception):
    """The lab could not do what was asked. `str()` is one line for a person; `log` names where to look."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        if log:
            self.add_note(log)  # so that a failing test shows it
        self.log = log
        """Last lines of the log that tells why; empty when there is none."""
