"""`/admin/audit`."""

from admin import REPORTS, Admin

from ostiary_auth.services import Services
from ostiary_auth.storage.audit.tables import audit_log

#: Entries of the audit log that preparing the service makes: two keys, and the clients of the stack's own
#: verifiers and gateways.
PREPARED_ENTRIES = 4


class TestAudit:
    async def test_the_log_comes_in_pages(self, admin: Admin) -> None:
        for number in range(3):
            await admin.ask("POST", "/admin/clients", {**REPORTS, "id": f"client{number}"})
        numbers = list(range(1, PREPARED_ENTRIES + 4))
        first = await admin.get("/admin/audit?limit=4")
        assert ([entry["number"] for entry in first["entries"]], first["next"]) == (numbers[:4], 4)
        second = await admin.get(f"/admin/audit?limit=4&after={first['next']}")
        assert ([entry["number"] for entry in second["entries"]], second["next"]) == (numbers[4:], None)

    async def test_the_log_is_searched_by_subject(self, admin: Admin) -> None:
        for client_id in ("reports", "others", "reports-2"):
            await admin.ask("POST", "/admin/clients", {**REPORTS, "id": client_id})
        entries = (await admin.get("/admin/audit?subject=client:reports"))["entries"]
        assert [(entry["event"], entry["subject"]) for entry in entries] == [("client.created", "client:reports")]

    async def test_an_entry_does_not_show_its_salt(self, admin: Admin) -> None:
        await admin.ask("POST", "/admin/clients", REPORTS)
        entry = await admin.last_entry()
        assert entry["personal"]["source"] == "192.0.2.7"
        assert "salt" not in entry["personal"]

    async def test_the_log_is_verified(self, admin: Admin, services: Services) -> None:
        await admin.ask("POST", "/admin/clients", REPORTS)
        head = (await admin.last_entry())["mac"]
        whole = {"intact": True, "complete": True, "entries": PREPARED_ENTRIES + 1, "broken_at": None, "head": head}
        assert await admin.get("/admin/audit/verify") == whole
        async with services.database.write() as connection:
            await connection.execute(audit_log.update().where(audit_log.c.number == 2).values(actor="nobody"))
        report = await admin.get("/admin/audit/verify")
        assert (report["intact"], report["entries"], report["broken_at"]) == (False, 1, 2)
