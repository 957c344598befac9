from uuid import UUID, uuid4

import pytest

from ostiary_auth.domain.accounts.device_tokens import DeviceTokens

ADA = uuid4()
EVE = uuid4()


class TestDeviceTokens:
    @pytest.fixture
    def tokens(self) -> DeviceTokens:
        return DeviceTokens(bytes(32))

    def test_a_device_is_recognised_for_its_owner_alone(self, tokens: DeviceTokens) -> None:
        token = tokens.issue(ADA)
        assert tokens.recognise(token, ADA) == token.partition(".")[0]
        assert tokens.recognise(token, EVE) is None
        assert tokens.recognise(token, None) is None

    def test_each_device_has_an_id_of_its_own(self, tokens: DeviceTokens) -> None:
        assert len({tokens.recognise(tokens.issue(ADA), ADA) for _ in range(100)}) == 100

    def test_a_device_stays_known_after_a_restart(self, tokens: DeviceTokens) -> None:
        assert DeviceTokens(bytes(32)).recognise(tokens.issue(ADA), ADA) is not None

    def test_a_token_under_another_key_is_not_recognised(self, tokens: DeviceTokens) -> None:
        assert tokens.recognise(DeviceTokens(b"\1" * 32).issue(ADA), ADA) is None

    def test_a_token_says_nothing_about_its_owner(self, tokens: DeviceTokens) -> None:
        token = tokens.issue(ADA)
        assert str(ADA) not in token
        assert ADA.hex not in token

    def test_a_changed_token_is_not_recognised(self, tokens: DeviceTokens) -> None:
        device_id, _, mac = tokens.issue(ADA).partition(".")
        other_id, _, other_mac = tokens.issue(ADA).partition(".")
        for changed in (
            f"{device_id}.{other_mac}",
            f"{other_id}.{mac}",
            f"{device_id}.{mac}=",
            f"{device_id}.{mac}.",
            f"{device_id}.{mac[:-2]}",
            f"{device_id}.",
            f".{mac}",
            f"{device_id}{mac}",
            f" {device_id}.{mac}",
        ):
            assert tokens.recognise(changed, ADA) is None

    @pytest.mark.parametrize("token", [None, "", ".", "..", "x", "\u00e9.\u00e9", "." * 10_000, "\0.\0"])
    @pytest.mark.parametrize("user_id", [ADA, None])
    def test_what_is_no_token_is_not_recognised(
        self, tokens: DeviceTokens, token: str | None, user_id: UUID | None
    ) -> None:
        assert tokens.recognise(token, user_id) is None
