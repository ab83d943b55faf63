"""What a disk says about itself: pages as SPC lays them out, texts however they are spelt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.device.identity import Identity, designator_texts, is_uuid, normalised, serial_text
from tests.support.fakekernel import designator, vpd80, vpd83

OURS = "7c174117-320b-480f-ac05-b0f622127511"
OTHER = "b29f577f-1354-4c4a-ae12-f3809dea44cf"
SERIAL = "NFS_4_0_289_7c174117_320b_480f_ac05_b0f622127511"


@pytest.mark.parametrize(
    "text",
    [
        SERIAL,
        SERIAL.upper(),
        "NFS:4:0:289:7c174117-320b-480f-ac05-b0f622127511",
        "t10.NUTANIX NFS_4_0_289_7c174117_320b_480f_ac05_b0f622127511",
        "7c174117320b480fac05b0f622127511",
    ],
)
def test_the_uuid_is_found_however_it_is_spelt(text: str):
    assert Identity(kernel=(text,)).carries(OURS)
    assert Identity(links=(f"scsi-1NUTANIX_{text}",)).carries(OURS)
    assert not Identity(kernel=(text,)).carries(OTHER)


def test_one_digit_less_or_another_digit_is_another_disk():
    assert not Identity(kernel=(SERIAL[:-1],)).carries(OURS)
    assert not Identity(kernel=(SERIAL[:-1] + "2",)).carries(OURS)


def test_a_stale_link_does_not_outweigh_what_the_disk_says():
    identity = Identity(kernel=(SERIAL,), links=(f"scsi-1NUTANIX_NFS_1_0_5_{OTHER.replace('-', '_')}",))
    assert not identity.carries(OTHER)
    assert identity.carries(OURS)


def test_links_count_where_the_kernel_names_no_vmdisk():
    assert Identity(kernel=("naa.6506b8d9aabb",), links=(f"scsi-1NUTANIX_{SERIAL}",)).carries(OURS)


def test_other_vmdisks_in_the_same_identity_are_named():
    identity = Identity(kernel=(SERIAL, f"NUTANIX NFS_1_0_5_{OTHER.replace('-', '_')}"))
    assert identity.others(OURS) == {normalised(OTHER)}
    assert Identity(kernel=(SERIAL, SERIAL.lower())).others(OURS) == frozenset()


@pytest.mark.parametrize(
    "text", ["", "7c174117", "7c174117-320b-480f-ac05-b0f62212751", "zz174117-320b-480f-ac05-b0f622127511"]
)
def test_a_cut_uuid_is_none(text: str):
    assert not is_uuid(text)


def test_pages_are_read_as_binary():
    assert serial_text(vpd80(f"  {SERIAL} \0")) == SERIAL
    naa, t10 = designator_texts(vpd83(SERIAL))
    assert naa == "6506b8d9aabbccddeeff001122334455"
    assert t10 == f"NUTANIX {SERIAL}"


def test_designators_of_ports_and_targets_do_not_identify_a_disk():
    body = b"".join(designator(SERIAL.encode(), code_set=2, association=kind, kind=1) for kind in (1, 2, 3))
    assert designator_texts(bytes([0, 0x83]) + len(body).to_bytes(2, "big") + body) == ()


def test_a_page_of_another_code_is_no_serial():
    assert serial_text(vpd83(SERIAL)) is None
    assert designator_texts(vpd80(SERIAL)) == ()


def test_a_cut_page_gives_what_is_whole():
    page = vpd83(SERIAL)
    assert designator_texts(page[:30]) == ("6506b8d9aabbccddeeff001122334455",)
    assert serial_text(b"\0\x80") is None


@settings(max_examples=50)
@given(st.binary(max_size=80), st.sampled_from([0x80, 0x83]))
def test_any_bytes_are_read_without_an_error_and_never_prove_us(noise: bytes, code: int):
    page = bytes([0, code]) + len(noise).to_bytes(2, "big") + noise
    texts = (serial_text(page) or "", *designator_texts(page))
    assert not Identity(kernel=texts).carries(OURS)


@settings(max_examples=50)
@given(st.uuids(), st.sampled_from(["_", "-", ":"]), st.booleans(), st.integers(0, 9999))
def test_any_uuid_is_found_in_its_own_pages(uuid, separator: str, upper: bool, number: int):
    serial = f"NFS_{number}_0_{number}_{str(uuid).replace('-', separator)}"
    serial = serial.upper() if upper else serial
    identity = Identity(kernel=(serial_text(vpd80(serial)) or "", *designator_texts(vpd83(serial))))
    assert identity.carries(str(uuid))
    assert identity.others(str(uuid)) == frozenset()
