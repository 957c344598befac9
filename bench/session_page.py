"""The tables of `docs/explanation/session-or-jwt.md`, made from `results/session_or_jwt.json`.

`python bench/session_page.py` writes them again.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
PAGE = BENCH.parent / "docs" / "explanation" / "session-or-jwt.md"
RESULTS = BENCH / "results" / "session_or_jwt.json"

BEGIN, END = "<!-- {}: made by bench/session_page.py -->\n", "<!-- end -->"

#: The keys of the figures, and the heads of their columns.
COLUMNS = {
    "express_session": "session in Redis",
    "express_jwt_hs256": "JWT, HS256",
    "express_jwt_rs256": "JWT, RS256",
    "ostiary_cookies": "Ostiary, cookies",
    "ostiary_bearer": "Ostiary, bearer",
}
NOT_INSTALLED, NOT_MEASURED = "not installed", "not measured"

Results = Mapping[str, Any]


def tables(results: Results) -> dict[str, str]:
    """Return all tables by name."""
    return {"comparison": comparison(results), "frameworks": frameworks(results), "versions": versions(results)}


def comparison(results: Results) -> str:
    rows = [("", list(COLUMNS.values()))]
    rows += [(label, [cell(results, key) for key in COLUMNS]) for label, cell in CELLS.items()]
    # What older results do not have is left out.
    return "".join(
        f"| {label} | {' | '.join(cells)} |\n" + divider(label, len(cells)) for label, cells in rows if any(cells)
    )


def divider(label: str, count: int) -> str:
    return "" if label else "| --- |" + " --- |" * count + "\n"


def of(part: str, *, jwts_are_one: bool = False) -> Callable[[Results, str], Any]:
    """Return what finds a column's figures in a part; figures of both kinds of JWT may be the same."""

    def find(results: Results, key: str) -> Any:
        name = "express_jwt" if jwts_are_one and key.startswith("express_jwt") else key
        return results[part].get(name)

    return find


def throughput(results: Results, key: str) -> str:
    row = of("requests")(results, key)
    return spread(row["per_cpu_second"]) if row else NOT_INSTALLED


def latency(results: Results, key: str) -> str:
    row = results["requests"]["paced_p99_ms"].get(key)
    return f"{row['median']:.1f} ms" if row else NOT_INSTALLED


def spread(row: Mapping[str, float]) -> str:
    """Return a median and, in brackets, the lowest and highest value."""
    return f"{row['median']:,.0f} ({row['lowest']:,.0f} to {row['highest']:,.0f})".replace(",", " ")


def outside(results: Results, key: str) -> str:
    row = of("wire")(results, key)
    return f"{row['request']} + {row['response']}" if row else NOT_INSTALLED


def credential(results: Results, key: str) -> str:
    row = of("wire")(results, key)
    return str(row["credential"]) if row else NOT_INSTALLED


def inside(results: Results, key: str) -> str:
    row = of("wire")(results, key)
    return str(row["inside"] or "none") if row else NOT_INSTALLED


def memory(results: Results, key: str) -> str:
    if key.startswith("express_jwt"):
        return "none"
    row = of("memory")(results, "ostiary_cookies" if key == "ostiary_bearer" else key)
    if not row:
        return NOT_INSTALLED
    if key == "express_session":
        return f"{row['redis_mb']:.1f} MB in Redis"
    database = f"{row['database_mb']:.1f} MB in the database"
    return f"{database}; {row['gateway_resident_mb']:.0f} MB in a gateway" if key == "ostiary_cookies" else database


def after_logout(member: str) -> Callable[[Results, str], str]:
    """Return what says when something happened after a logout: p50, p99 and most."""

    def find(results: Results, key: str) -> str:
        row = of("logout", jwts_are_one=True)(results, key)
        if not row:
            return NOT_INSTALLED
        times = row.get(member)
        if not times:
            return ""
        if "life_seconds" in row:
            return f"{times['max_ms'] / 1000:.1f} s: its {row['life_seconds']} s of life"
        return f"{times['p50_ms']:.0f} / {times['p99_ms']:.0f} / {times['max_ms']:.0f} ms"

    return find


def failed(results: Results, key: str) -> str:
    if key.startswith("express_jwt"):
        return "there is no store"
    row = of("outage")(results, key)
    if not row:
        return NOT_MEASURED if key == "ostiary_bearer" else NOT_INSTALLED
    text = f"{row['failed_while_down']} of {row['due_while_down']}"
    if key == "ostiary_cookies":
        expiring = results["outage"]["ostiary_cookies_expiring"]
        text += f"; {expiring['failed_while_down']} of {expiring['due_while_down']} if all tokens expire meanwhile"
    return text


def logged_out(results: Results, key: str) -> str:
    if key.startswith("express_jwt"):
        return "there is no store"
    row = of("outage")(results, key)
    if not row:
        return NOT_MEASURED if key == "ostiary_bearer" else NOT_INSTALLED
    text = f"{row['clients_logged_out']} of {row['clients']}"
    if key == "express_session":
        other = results["outage"]["express_session_redis_as_installed"]
        text += f"; {other['clients_logged_out']} of {other['clients']} with Redis as it is installed"
    return text


def can(member: str) -> Callable[[Results, str], str]:
    """Return what says whether something is possible in Chromium."""

    def answer(results: Results, key: str) -> str:
        row = of("browser", jwts_are_one=True)(results, key)
        return ("yes" if row[member] else "no") if row else NOT_INSTALLED

    return answer


CELLS: dict[str, Callable[[Results, str], str]] = {
    "requests/s per core, CPU time of all processes": throughput,
    "p99 at 1 000 requests/s": latency,
    "bytes of a request and its response": outside,
    "of these, the credential": credential,
    "bytes between application and store, or gateway and service": inside,
    "memory for 10 000 sessions": memory,
    "from the response to a logout until every tab is refused: p50 / p99 / max": after_logout(
        "refused_everywhere_after_answer"
    ),
    "from sending a logout until every tab is refused: p50 / p99 / max": after_logout("refused_everywhere"),
    "from sending a logout to the last request accepted: p50 / p99 / max": after_logout("last_accepted"),
    "failed requests while the store or the auth service is down for 10 s": failed,
    "logged out by that": logged_out,
    "a script in the page can read the credential": can("script_reads_credential"),
    "a form of another site can change data": can("form_of_other_site_changes"),
    "a form of a sibling subdomain can change data": can("form_of_sibling_changes"),
    "a form of another site can log its visitors in": can("form_of_other_site_logs_in"),
}

#: What handles requests: the key of its figures without and with a login.
FRAMEWORKS = (
    ("Express, nothing else", "express_bare"),
    ("Express with a session in Redis", "express_session"),
    ("the same, without extending the session's life with each request", "express_session_without_touch"),
    ("Express with a JWT, HS256", "express_jwt_hs256"),
    ("the same, with the key as a string, as most articles show it", "express_jwt_hs256_raw_key"),
    ("Starlette, nothing else", "service_bare"),
    ("Starlette with `ostiary.asgi`", "service_alone"),
    ("the same behind the gateway, with cookies", "ostiary_cookies"),
    ("FastAPI, nothing else", "service_bare_fastapi"),
    ("FastAPI with `ostiary.fastapi`", "service_alone_fastapi"),
    ("the same behind the gateway, with cookies", "ostiary_cookies_fastapi"),
)


def frameworks(results: Results) -> str:
    rows = [(label, results["requests"].get(key)) for label, key in FRAMEWORKS]
    lines = [
        f"| {label} | {spread(row['per_cpu_second'])} | {1e6 / row['per_cpu_second']['median']:.0f} |\n"
        if row
        else f"| {label} | {NOT_INSTALLED} | |\n"
        for label, row in rows
    ]
    return "| | requests/s per core | µs of CPU time per request |\n| --- | --- | --- |\n" + "".join(lines)


def versions(results: Results) -> str:
    found = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return f"Measured on {results['date']} with Python {results['python']} on {results['cores']} cores: {found}.\n"


def written(page: str, made: Mapping[str, str]) -> str:
    """Return a page with these tables in their places."""
    for name, text in made.items():
        begin = BEGIN.format(name)
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}"
    return page


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(written(PAGE.read_text(), tables(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main()
