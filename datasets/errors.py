"""What the user did wrong, and what is wrong with an input."""


class UserError(Exception):
    """A user's mistake: one line with what was found, what was expected and what to do; exit code 2."""


class ReplayError(Exception):
    """An input that is not taken: becomes a row in `rejects/`, never stops a job.

    Attributes:
        code: short reason code, stable across versions (see `datasets.checks.REASONS`).
        message: what was found, for a person; never a player's name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
