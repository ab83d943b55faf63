"""The address of a Prism, however it is written."""

from __future__ import annotations

import pytest

from mover.errors import ConfigError
from mover.hypervisor.nutanix.address import PrismAddress, parse_address


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://prism.example:9440/api/nutanix/v3", "https://prism.example:9440"),
        ("https://prism.example:9440/api/nutanix/v3/", "https://prism.example:9440"),
        ("https://prism.example", "https://prism.example:9440"),
        ("https://prism.example/", "https://prism.example:9440"),
        ("prism.example", "https://prism.example:9440"),
        ("prism.example:9441", "https://prism.example:9441"),
        ("PRISM.example/PrismGateway/services/rest/v2.0", "https://prism.example:9440"),
        ("https://10.0.0.5:9440/console/#login", "https://10.0.0.5:9440"),
        (" https://10.0.0.5 ", "https://10.0.0.5:9440"),
        ("https://[fd00::5]:9440", "https://[fd00::5]:9440"),
        ("127.10.0.1:19440", "https://127.10.0.1:19440"),
    ],
)
def test_addresses_as_users_write_them(written, origin):
    assert parse_address(written).origin == origin


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "is not set"),
        ("http://prism:9440", "https only"),
        ("ftp://prism", "https only"),
        ("https://admin:pw@prism", "carries a user"),
        ("https://prism/backup", "not Prism's"),
        ("https://prism:99999", "port"),
        ("https://prism:0", "port"),
        ("https://prism:x", "port"),
        ("https://", "names no host"),
        ("two words", "names no host"),
        ("https://[::1", "not an address"),
    ],
)
def test_what_is_no_address_is_refused_in_words(written, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse_address(written)
    assert "https://PRISM_HOST:9440" in caught.value.remedy
    assert caught.value.facts["setting"] == "prism.url"


def test_a_refusal_never_repeats_the_password():
    with pytest.raises(ConfigError) as caught:
        parse_address("https://admin:hunter2@prism")
    assert "hunter2" not in str(caught.value.as_dict())


def test_the_setting_is_named():
    with pytest.raises(ConfigError, match=r"prism\.element_url"):
        parse_address("http://x", setting="prism.element_url")


def test_an_address_reads_as_host_and_port():
    assert str(PrismAddress("fd00::5", 9440)) == "[fd00::5]:9440"
    assert str(PrismAddress("pe", 1)) == "pe:1"
