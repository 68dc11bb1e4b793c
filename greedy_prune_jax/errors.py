"""The one exception that a user can cause."""


class UserError(ValueError):
  """Something the user gave cannot be used: a file, a line of it, a setting, a model.

  The message says what was wrong and where, what was expected, and what to do. Jobs print it
  without a traceback and exit with status 1.
  """
