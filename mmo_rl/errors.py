"""Error tree. Every error says what was found, what was expected, and what to type next.

MmoRlError                 exit code 1: the job failed
├── ConfigError            exit code 2: the configuration or the command is wrong; nothing was started
│   └── NoAddress          the variable of a database is not set, or no connection string (a `DatabaseError` too)
├── NotReady               exit code 3: `task=check` found too little data
├── DatabaseError          the server, the connection or the tables
│   └── ConnectionLost     the server went away or cannot be reached just now; asking again may help
├── SourceError            nothing to read, or nothing readable
├── JudgeError             the judge could not be used at all (single failures are `Unscored`)
├── TrainerError           there was signal but nothing was trained; a broken checkpoint
└── PolicyError            a policy endpoint or checkpoint that cannot answer
"""


class MmoRlError(Exception):
    """Base of errors that are a message to the user rather than a defect; ``hint`` is the next command or change."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  -> {self.hint}"


class ConfigError(MmoRlError):
    exit_code = 2


class NotReady(MmoRlError):
    exit_code = 3


class DatabaseError(MmoRlError):
    pass


class NoAddress(ConfigError, DatabaseError):
    pass


class ConnectionLost(DatabaseError):
    pass


def is_lost(error: Exception) -> bool:
    """Tells a lost connection from other failures: asking again may help."""
    return isinstance(error, ConnectionLost)


class SourceError(MmoRlError):
    pass


class JudgeError(MmoRlError):
    pass


class TrainerError(MmoRlError):
    pass


class PolicyError(MmoRlError):
    pass
