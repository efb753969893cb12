"""Facts of kdx/runtime/proxy.py: never a proxy to this machine, and the one that gRPC takes elsewhere is named."""

import pytest

from kdx.runtime.proxy import EXCEPTIONS, VARIABLES, is_loopback, proxy_to


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost:8001", True),
        ("LOCALHOST.:8001", True),
        ("127.0.0.1:8001", True),
        ("127.3.2.1:8001", True),
        ("[::1]:8001", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("128.0.0.1:8001", False),
        ("localhost.example.org:8001", False),
        ("triton:8001", False),
        ("[::2]:8001", False),
    ],
)
def test_this_machine_is_known_by_name_and_number(
    monkeypatch: pytest.MonkeyPatch, address: str, loopback: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert is_loopback(address) is loopback
    assert (proxy_to(address) is None) is loopback


def test_the_variables_count_in_grpcs_order_and_passwords_are_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert proxy_to("triton:8001") is None
    for name, value in (
        ("http_proxy", "http://a:1"),
        ("https_proxy", "b:2"),
        ("grpc_proxy", "http://me:pw@c:3/"),
    ):
        monkeypatch.setenv(name, value)
        assert (
            proxy_to("triton:8001")
            == f"{value.removeprefix('http://').rpartition('@')[2].strip('/')} ({name})"
        )


@pytest.mark.parametrize("host", ["triton", "triton.example.org", "10.1.2.3"])
def test_exceptions_are_kept(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("https_proxy", "http://a:1")
    monkeypatch.setenv("no_proxy", "other, .example.org,triton,10.0.0.0/8")
    assert proxy_to(f"{host}:8001") is None
    assert proxy_to("elsewhere:8001") is not None
    monkeypatch.setenv("no_grpc_proxy", "nothing")  # counts before no_proxy
    assert proxy_to(f"{host}:8001") is not None
