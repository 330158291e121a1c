"""A stranger's words in Markdown and HTML: text stays text.

A config.json may say anything in its notes, titles and protocols. In a card that the Hub or a notebook shows, none of
it may become a link, a picture, a tag or a heading; `code` between single backticks alone is kept.
"""

from __future__ import annotations

import re
from typing import Any


def plain(text: Any) -> str:
    """Text on one line, without the characters that no one sees: those that steer a terminal, or turn writing round."""
    return " ".join("".join(each for each in str(text) if each.isprintable() or each.isspace()).split())


def words(text: Any) -> str:
    """Text as one line of Markdown that shows it as it is, with `code` between single backticks."""
    # Runs of backticks would pair otherwise than one by one, and so would one behind a backslash.
    parts = re.split(r"(`[^`]*`)", re.sub(r"`{2,}", "`", plain(text)))
    parts[::2] = [re.sub(r"([\\\[\]<>`])", r"\\\1", part) for part in parts[::2]]
    # Nor may it begin as a heading, a rule, a fence or a list does.
    line = re.sub(r"^(?=[#=~*]|[-+](\s|[-+]|$))", r"\\", "".join(parts))
    return re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", line)
