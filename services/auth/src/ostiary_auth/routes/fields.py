"""Types of fields that several bodies have."""

from typing import Annotated

from pydantic import Field

#: Characters of an address (RFC 5321 section 4.5.3.1: 64 before the @, 255 after).
Email = Annotated[str, Field(max_length=320, examples=["ada@example.com"])]

#: Its rules are the domain's; this only keeps out what nobody types.
Password = Annotated[str, Field(max_length=1024, repr=False, examples=["correct horse battery staple"])]
