"""WebSocket frames (RFC 6455 section 5.2)."""


def frame(payload: bytes, *, mask: bytes = b"", opcode: int = 0x2) -> bytes:
    """Return a frame as RFC 6455 section 5.2 writes it."""
    size, flag = len(payload), 0x80 if mask else 0
    if size <= 125:
        head = bytes([0x80 | opcode, flag | size])
    elif size < 2**16:
        head = bytes([0x80 | opcode, flag | 126]) + size.to_bytes(2)
    else:
        head = bytes([0x80 | opcode, flag | 127]) + size.to_bytes(8)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if mask else payload
    return head + mask + masked
