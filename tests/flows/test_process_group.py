"""Which network interface gloo is given."""

from __future__ import annotations

import pytest

from flows import process_group
from flows.process_group import GlooConfig, interface_of


def test_an_interface_is_found_by_its_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


@pytest.mark.parametrize(
    ("address", "given", "chosen"),
    [("127.0.0.1", None, "lo"), ("127.0.0.1", "given0", "given0"), ("203.0.113.7", None, None)],
)
def test_a_given_interface_is_kept(
    monkeypatch: pytest.MonkeyPatch, address: str, given: str | None, chosen: str | None
) -> None:
    environment = {} if given is None else {"GLOO_SOCKET_IFNAME": given}
    monkeypatch.setattr(process_group, "get_node_ip_address", lambda: address)
    monkeypatch.setattr(process_group.os, "environ", environment)
    process_group._choose_interface()
    assert environment.get("GLOO_SOCKET_IFNAME") == chosen


def test_workers_choose_before_they_join(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Group:
        def execute(self, function: object) -> None:
            called.append(getattr(function, "__name__", ""))

    config = GlooConfig()
    backend = config.backend_cls
    monkeypatch.setattr(backend.__bases__[0], "on_start", lambda *_: called.append("joined"))
    backend().on_start(Group(), config)
    assert called == ["_choose_interface", "joined"]
