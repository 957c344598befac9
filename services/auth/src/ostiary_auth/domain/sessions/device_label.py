"""Short names of devices for a user's list of sessions."""

import re

#: Characters of a label.
MAX_LABEL_CHARACTERS = 64

# Browsers also name those that they imitate, so the most specific pattern comes first.
_PROGRAMS = (
    (re.compile(r"\bEdg(?:e|A|iOS)?/"), "Edge"),
    (re.compile(r"\b(?:OPR|Opera)/"), "Opera"),
    (re.compile(r"\bSamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"\b(?:Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"\b(?:Chrome|CriOS|Chromium)/"), "Chrome"),
    (re.compile(r"\bVersion/\S+ (?:Mobile/\S+ )?Safari/"), "Safari"),
)
_SYSTEMS = (
    (re.compile(r"\biPhone\b"), "iPhone"),
    (re.compile(r"\biPad\b"), "iPad"),
    (re.compile(r"\bAndroid\b"), "Android"),
    (re.compile(r"\bWindows\b"), "Windows"),
    (re.compile(r"\bMac OS X\b|\bMacintosh\b"), "macOS"),
    (re.compile(r"\bCrOS\b"), "ChromeOS"),
    (re.compile(r"\bLinux\b"), "Linux"),
)
# The first product of a User-Agent (RFC 9110 section 10.1.5), without its version.
_PRODUCT = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)")


def label(user_agent: str | None) -> str | None:
    """Return a name such as `Firefox on Linux` for a User-Agent."""
    if not user_agent:
        return None
    program = next((name for pattern, name in _PROGRAMS if pattern.search(user_agent)), None)
    if program is None:
        product = _PRODUCT.match(user_agent)
        program = product[1] if product and product[1] != "Mozilla" else None
    system = next((name for pattern, name in _SYSTEMS if pattern.search(user_agent)), None)
    return " on ".join(part for part in (program, system) if part)[:MAX_LABEL_CHARACTERS] or None
