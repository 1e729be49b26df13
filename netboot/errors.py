"""Every error that `netboot` raises on purpose.

    NetbootError
      WireError         a datagram that does not parse: drop, count, go on
      UserError         a request that cannot be done: one line that says what to do
        UnknownError      no such machine, image, group, session or template
        ConflictError     not now: a name in use, a machine that is busy, a second appliance
        TemplateError     a template that cannot be rendered, with file and line
      ServiceError      the appliance cannot run: port in use, no privilege, no such interface

At the edge a UserError is exit code 2 or HTTP 4xx, a ServiceError exit code 1.
"""


class NetbootError(Exception):
    """Base of all errors of this package. `str()` is one line for a person that says what to do."""


class WireError(NetbootError):
    """A datagram that is not of the protocol."""


class UserError(NetbootError):
    """A request that cannot be done as asked."""

    def lines(self) -> tuple[str, ...]:
        """One for each thing that is wrong."""
        return (str(self),)


class UnknownError(UserError):
    """What was named does not exist."""


class ConflictError(UserError):
    """What was asked cannot be done now."""


class TemplateError(UserError):
    """A template that cannot be rendered."""


class ServiceError(NetbootError):
    """The appliance cannot run as configured."""
