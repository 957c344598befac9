import pytest

from ostiary_auth.domain.sessions.device_label import MAX_LABEL_CHARACTERS, label

MOZILLA = "Mozilla/5.0"
WINDOWS = f"{MOZILLA} (Windows NT 10.0; Win64; x64)"
MAC = f"{MOZILLA} (Macintosh; Intel Mac OS X 10_15_7)"
IPHONE = f"{MOZILLA} (iPhone; CPU iPhone OS 17_5 like Mac OS X)"
IPAD = f"{MOZILLA} (iPad; CPU OS 17_5 like Mac OS X)"
PIXEL = f"{MOZILLA} (Linux; Android 14; Pixel 8)"
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
APPLE_WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"


class TestLabel:
    @pytest.mark.parametrize(
        ("user_agent", "expected"),
        [
            (f"{WINDOWS} {WEBKIT} Chrome/126.0.0.0 Safari/537.36", "Chrome on Windows"),
            (f"{WINDOWS} {WEBKIT} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0", "Edge on Windows"),
            (f"{WINDOWS} {WEBKIT} Chrome/126.0.0.0 Safari/537.36 OPR/111.0.0.0", "Opera on Windows"),
            (f"{MOZILLA} (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0", "Firefox on Linux"),
            (f"{MAC} {APPLE_WEBKIT} Version/17.5 Safari/605.1.15", "Safari on macOS"),
            (f"{IPHONE} {APPLE_WEBKIT} Version/17.5 Mobile/15E148 Safari/604.1", "Safari on iPhone"),
            (f"{IPHONE} {APPLE_WEBKIT} CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1", "Chrome on iPhone"),
            (f"{IPAD} {APPLE_WEBKIT} FxiOS/127.0 Mobile/15E148 Safari/605.1.15", "Firefox on iPad"),
            (f"{IPHONE} {APPLE_WEBKIT} Version/17.0 EdgiOS/126.0 Mobile/15E148 Safari/605.1.15", "Edge on iPhone"),
            (f"{PIXEL} {WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
            (f"{PIXEL} {WEBKIT} SamsungBrowser/25.0 Chrome/121.0 Mobile Safari/537.36", "Samsung Internet on Android"),
            (f"{MOZILLA} (Android 14; Mobile; rv:127.0) Gecko/127.0 Firefox/127.0", "Firefox on Android"),
            (f"{MOZILLA} (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/126.0 Safari/537.36", "Chrome on ChromeOS"),
            ("curl/8.5.0", "curl"),
            ("python-httpx/0.27.0", "python-httpx"),
            ("okhttp/4.12.0", "okhttp"),
            ("MyApp/3.1 (iPhone; iOS 17.5)", "MyApp on iPhone"),
        ],
    )
    def test_a_device_is_named_as_people_know_it(self, user_agent: str, expected: str) -> None:
        assert label(user_agent) == expected

    @pytest.mark.parametrize("user_agent", [None, "", " ", MOZILLA, "(", "\x00\x1b[2J", "\u202e\u200b", "\u00fcber/1"])
    def test_what_names_nothing_has_no_label(self, user_agent: str | None) -> None:
        assert label(user_agent) is None

    @pytest.mark.parametrize(
        "user_agent",
        [
            "x" * 10_000,
            "x" * 10_000 + "/1 (Linux)",
            "!#$%&'*+" * 1250,
            "a\x1b[2J" * 2000,
            "Version/" * 1250,
            "~" + "\u202e" * 9999,
        ],
    )
    def test_garbage_makes_a_short_and_printable_label(self, user_agent: str) -> None:
        made = label(user_agent)
        assert made is not None
        assert 0 < len(made) <= MAX_LABEL_CHARACTERS
        assert made.isascii()
        assert made.isprintable()
