"""Which VM this node is, or a clear way to say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mover.device.smbios import own_identity
from mover.errors import ProxyUnfit
from tests.support.fakekernel import FakeKernel

UUID = "7C174117-320B-480F-AC05-B0F622127511"


def test_uuid_and_addresses_are_lower_case_and_loopback_is_nobody(tmp_path: Path):
    FakeKernel(tmp_path).own(UUID, lo="00:00:00:00:00:00", eth1="50:6B:8D:00:00:02", eth0="50:6b:8d:00:00:01")
    uuid, macs = own_identity(tmp_path)
    assert uuid == UUID.lower()
    assert macs == ("50:6b:8d:00:00:01", "50:6b:8d:00:00:02")


def test_tunnels_and_infiniband_are_left_out(tmp_path: Path):
    FakeKernel(tmp_path).own(UUID, tun0="", ib0="80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:00:01")
    assert own_identity(tmp_path).mac_addresses == ()


@pytest.mark.parametrize("text", ["", "Not Settable", "0" * 32, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"])
def test_placeholders_of_the_firmware_are_no_identity(tmp_path: Path, text: str):
    FakeKernel(tmp_path).own(text)
    with pytest.raises(ProxyUnfit) as caught:
        own_identity(tmp_path)
    assert "node.proxy_uuid" in caught.value.remedy


def test_without_smbios_the_remedy_names_the_setting(tmp_path: Path):
    with pytest.raises(ProxyUnfit, match="there is no") as caught:
        own_identity(tmp_path)
    assert "node.proxy_uuid" in caught.value.remedy


def test_without_the_right_to_read_it_the_remedy_names_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, os.strerror(13))

    FakeKernel(tmp_path).own(UUID)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ProxyUnfit, match="root only"):
        own_identity(tmp_path)


def test_the_setting_overrides_and_needs_no_smbios(tmp_path: Path):
    kernel = FakeKernel(tmp_path)
    kernel.own("garbage", eth0="50:6b:8d:00:00:01")
    assert own_identity(tmp_path, proxy_uuid=UUID) == (UUID.lower(), ("50:6b:8d:00:00:01",))


def test_a_setting_that_is_no_uuid_is_refused(tmp_path: Path):
    with pytest.raises(ProxyUnfit, match="'proxy-1'"):
        own_identity(tmp_path, proxy_uuid="proxy-1")
