"""Names that settings give to models and runs, as NAME=PLACE."""

from collections.abc import Callable


def split_name(text: str, is_place: Callable[[str], bool]) -> tuple[str, str]:
  """The name and the place of `[NAME=]PLACE`; the name is empty where there is none.

  Folders may have a = in their names (`runs/lr=3e-5`): what is there as a whole has no name.
  """
  name, is_named, place = text.partition("=")
  return (name, place) if is_named and not is_place(text) else ("", text)
