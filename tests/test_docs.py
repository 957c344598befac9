"""The README keeps its word: its service runs behind the gateway, its settings are all there with their defaults."""

import re
import subprocess
from pathlib import Path

import httpx
import yaml
from clusters import BIN, LocalCluster, clean_environment, free_ports, wait_until
from people import People

from ostiary_auth.config import AuthConfig
from ostiary_gateway.config import GatewayConfig
from ostiary_profile.config import ProfileConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """Return the one code block of a language that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    assert isinstance(found, str)
    return found


def test_a_service_of_ones_own_takes_ten_lines() -> None:
    service = block("python", "FastAPI")
    assert len(service.splitlines()) <= 10
    assert service in (ROOT / "libs" / "ostiary" / "README.md").read_text()


def test_the_service_in_the_readme_runs_behind_the_gateway(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    routes = yaml.safe_load((ROOT / "deploy" / "gateway.yaml").read_text())
    addition = yaml.safe_load(block("yaml", "orders").replace(":8083", f":{port}"))
    routes["upstreams"].update(addition["upstreams"])
    routes["routes"] += addition["routes"]
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(routes))
    cluster = LocalCluster(tmp_path / "data", OSTIARY_GATEWAY_ROUTES=str(file))
    service_text = block("python", "FastAPI").replace("http://localhost:8080", cluster.url)
    service_text = service_text.replace("http://127.0.0.1:8081", cluster.urls["auth"])
    (tmp_path / "orders.py").write_text(service_text.replace(".data", str(cluster.data_dir)))
    try:
        cluster.start_all()
        service = subprocess.Popen(  # noqa: S603 - our own command
            [BIN / "uvicorn", "orders:app", "--port", str(port), "--log-level", "warning"],
            cwd=tmp_path,
            env=clean_environment(),
        )
        with httpx.Client(base_url=cluster.url, trust_env=False, timeout=20) as client:
            ada = People(client).new()
            wait_until(lambda: client.get("/orders", headers=ada.headers).status_code == 200, "orders are served")
            assert client.get("/orders", headers=ada.headers).json() == {"orders_of": ada.id}
            assert client.get("/orders").status_code == 401
            assert httpx.get(f"http://127.0.0.1:{port}/orders", trust_env=False).status_code == 401
            logout = client.post("/auth/logout", headers={**ada.headers, "Prefer": "wait=5"})
            assert (logout.json()["acknowledged_by"], logout.json()["complete"]) == (4, True)
            refused = httpx.get(f"http://127.0.0.1:{port}/orders", headers=ada.headers, trust_env=False)
            assert (refused.status_code, refused.json()["code"]) == (401, "revoked")
        service.terminate()
        assert service.wait(20) is not None
    finally:
        cluster.stop_all()


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| (`O(?:STIARY|TEL)_[^|]*) \| ([^|]*) \|", README, re.MULTILINE)
    table = {name: default for names, default in rows for name in re.findall(r"`(O[A-Z]+_\w+)`", names)}
    for config in (AuthConfig, GatewayConfig, ProfileConfig):
        for field in config.model_fields.values():
            assert field.alias in table
            if field.default not in {None, (), ""}:
                assert table[field.alias] == f"`{field.default}`", field.alias


def test_every_target_in_the_readme_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"`make ([a-z-]+)`", README)) | set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
        <= targets
    )


def test_every_test_that_is_named_as_proof_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    folder = ROOT
    for name in re.findall(r"`([\w/]*test_\w+\.py)`", text):
        # A bare name is beside the one before it.
        path = ROOT / name if "/" in name else folder / name
        assert path.is_file(), name
        folder = path.parent
