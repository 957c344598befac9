"""The route table that the documents are merged for."""

from pathlib import Path

import pytest

from ostiary_gateway.routing.loader import load_file
from ostiary_gateway.routing.table import RouteTable

ROUTES = """\
upstreams:
  shop: {url: "http://shop:1"}
  stock: {url: "http://stock:1"}
routes:
  - {name: order, match: {path: "/orders/{id}", methods: [GET]}, upstream: shop, access: {scopes: ["orders:read"]}}
  - {name: home, match: {path: /, methods: [GET]}, upstream: shop, access: public}
  - {name: stock, match: {path: "/stock/{rest...}", methods: [GET, PUT]}, upstream: stock, rewrite: "/v1/{rest...}",
     access: authenticated}
  - {name: item, match: {path: "/items/{id}", methods: [GET]}, upstream: stock, rewrite: "/v2/items/{id}/full",
     access: {roles: [clerk]}, }
"""


@pytest.fixture
def table(tmp_path: Path) -> RouteTable:
    (tmp_path / "gateway.yaml").write_text(ROUTES)
    return RouteTable(load_file(tmp_path / "gateway.yaml", {}).routes)
