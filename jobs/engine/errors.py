"""Errors that a user can act on: what was wrong, where, and what to do. They are printed without a stack trace."""


class AssayError(Exception):
    """The run failed (exit code 1). `hint` is the way out, in one line."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n       {self.hint}" if self.hint else self.message


class ConfigurationError(AssayError):
    """Wrong usage or configuration (exit code 2); raised before any data is read."""

    exit_code = 2
