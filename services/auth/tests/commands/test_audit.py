"""`ostiary-auth audit`."""

from command_line import CommandLine

from ostiary_auth.storage.audit.tables import audit_log
from ostiary_chassis.client_ids import GATEWAYS_CLIENT_ID, VERIFIERS_CLIENT_ID


class TestAudit:
    """The log begins with four entries: two keys, and the clients of the stack's own verifiers and gateways."""

    def test_entries_are_listed(self, line: CommandLine) -> None:
        line.prints("clients", "create", "reports", "--scope", "orders:read")
        entries = line.rows("audit", "list")
        assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5]
        assert [entry["event"] for entry in entries] == ["key.made"] * 2 + ["client.created"] * 3
        assert (entries[2]["actor"], entries[2]["subject"]) == ("system", f"client:{VERIFIERS_CLIENT_ID}")
        assert (entries[3]["actor"], entries[3]["subject"]) == ("system", f"client:{GATEWAYS_CLIENT_ID}")
        assert (entries[4]["actor"], entries[4]["subject"]) == ("operator", "client:reports")
        assert [entry["number"] for entry in line.rows("audit", "list", "--after", "1", "--limit", "1")] == [2]
        assert [entry["number"] for entry in line.rows("audit", "list", "--subject", "client:reports")] == [5]
        assert len(line.prints("audit", "list").splitlines()) == 6
        assert line.prints("audit", "list", "--after", "5") == "none\n"

    def test_an_intact_log_is_verified(self, line: CommandLine) -> None:
        head = line.prints("audit", "verify")
        number, _, mac = head.strip().partition(":")
        assert (number, len(mac)) == ("4", 64)
        line.prints("clients", "create", "reports")
        assert line.prints("audit", "verify", "--expect", head.strip()).startswith("5:")

    def test_an_entry_that_was_changed_is_found(self, line: CommandLine) -> None:
        line.execute(audit_log.update().where(audit_log.c.number == 2).values(actor="nobody"))
        assert line.refuses("audit", "verify") == "the audit log is broken from entry 2 on"

    def test_entries_that_were_cut_off_are_missed(self, line: CommandLine) -> None:
        line.prints("clients", "create", "reports")
        head = line.prints("audit", "verify").strip()
        line.execute(audit_log.delete().where(audit_log.c.number == 5))
        assert line.prints("audit", "verify").startswith("4:")
        assert line.refuses("audit", "verify", "--expect", head) == f"the audit log does not contain entry {head}"
        line.prints("clients", "create", "reports-2")
        assert line.refuses("audit", "verify", "--expect", head) == f"the audit log does not contain entry {head}"

    def test_an_expectation_has_a_form(self, line: CommandLine) -> None:
        for expect in ("", "2", "2:", ":ab", "x:ab", "-1:ab"):
            assert line.refuses("audit", "verify", f"--expect={expect}") == "--expect must have the form NUMBER:MAC"

    def test_an_expectation_that_is_not_met_is_refused(self, line: CommandLine) -> None:
        for expect in ("0:ab", "4:ab", "5:ab"):
            refusal = line.refuses("audit", "verify", "--expect", expect)
            assert refusal == f"the audit log does not contain entry {expect}"

    def test_a_number_beyond_all_entries_is_refused_in_one_line(self, line: CommandLine) -> None:
        assert "does not contain entry" in line.refuses("audit", "verify", "--expect", f"{2**64}:ab")

    def test_a_list_from_beyond_all_entries_is_no_crash(self, line: CommandLine) -> None:
        result = line.run("audit", "list", "--after", str(2**64))
        assert result.exception is None or isinstance(result.exception, SystemExit)
