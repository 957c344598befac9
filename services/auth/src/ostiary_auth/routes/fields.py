"""Types of fields in several bodies."""

from typing import Annotated

from pydantic import Field

#: Characters of an address (RFC 5321 section 4.5.3.1: 64 before the @, 255 after).
Email = Annotated[str, Field(max_length=320, examples=["ada@example.com"])]

#: The domain has the password policy; this bounds its work.
Password = Annotated[str, Field(max_length=1024, repr=False, examples=["correct horse battery staple"])]
