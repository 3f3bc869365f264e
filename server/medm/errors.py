"""The two ways MeDM refuses: what the caller gave is wrong, or what it needs is not there.

Every message is one line that an artist can act on; the command line prints it after `medm: ` and the HTTP API puts it
into `{"error": {"code", "message"}}`. Anything else that is raised is a defect of ours.
"""


class MedmError(Exception):
    """Base of every error that MeDM raises on purpose."""

    code = "error"
    exit_code = 1


class BadInput(MedmError):
    """A shot, an option or a request is wrong. Exit code 2, HTTP 400."""

    code = "bad_input"
    exit_code = 2


class Unavailable(MedmError):
    """A server, a model, a port or disk space is not to be had. Exit code 3, HTTP 503."""

    code = "unavailable"
    exit_code = 3


class Cancelled(MedmError):
    """The user asked the work to stop."""

    code = "cancelled"
