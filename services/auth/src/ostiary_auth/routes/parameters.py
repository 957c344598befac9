"""Types of path and query parameters."""

from typing import Annotated

from fastapi import Path

#: Printable ASCII: no id or kid has other characters, and a database may reject them.
PRINTABLE = r"^[\x21-\x7e]+$"
Name = Annotated[str, Path(max_length=128, pattern=PRINTABLE)]
