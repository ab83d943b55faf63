"""The same way through a Prism Central: it is given, its Element does the data work."""

from __future__ import annotations

import pytest

from mover.errors import CertificateRejected
from mover.operations.verify import verify_point
from tests.support.nodeworld import init, noise, running, settings_for, small_lab, write


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with small_lab(tmp_path_factory.mktemp("central") / "lab") as lab:
        yield lab


@pytest.mark.parametrize("path", ["", "/api/nutanix/v3"])
async def test_a_vm_goes_into_the_repository_and_comes_back_with_its_categories(lab, tmp_path, path):
    settings = settings_for(lab, tmp_path, prism__url=lab.central_url + path)
    await init(settings)
    async with running(lab, settings) as node:
        about = await node.node.hypervisor.about()
        assert about.kind == "central"
        first = await node.load(await node.backup())
        then = {slot: node.frozen(first, slot) for slot in ("scsi.0", "scsi.1")}
        write(lab, "web01", "scsi.0", 300_000, noise(len(path), 5000))
        second_report = await node.backup()
        assert [disk["mode"] for disk in second_report["disks"]] == ["incremental", "incremental"]
        second = await node.load(second_report)
        report, new = await node.restore(second.id)
        assert report["warnings"] == []
        assert new.categories == {"Backup": ["Gold"]}
        for slot in then:
            assert node.held(new.name, slot) == node.frozen(second, slot)
        assert node.held(new.name, "scsi.0") != then["scsi.0"]
        report, earlier = await node.restore(first.id)
        assert {slot: node.held(earlier.name, slot) for slot in then} == then
        assert (await verify_point(node.reading, first.id))["verified"]
        await node.assert_only_base(second)


async def test_the_certificate_of_each_is_pinned(lab, tmp_path):
    """One fingerprint is not enough: the Element's is checked too, and the error says whose is missing."""
    central = next(one for one in lab.fingerprints.split(",") if one != lab.fingerprint)
    settings = settings_for(lab, tmp_path, prism__url=lab.central_url, prism__fingerprint=central)
    await init(settings)
    with pytest.raises(CertificateRejected) as caught:
        async with running(lab, settings):
            pass
    assert lab.element_url.removeprefix("https://").split(":")[0] in caught.value.message
    assert lab.fingerprint.replace(":", "").lower() in str(caught.value.remedy).replace(":", "").lower()


async def test_an_element_restores_what_came_through_a_central_and_names_the_lost_categories(lab, tmp_path):
    settings = settings_for(lab, tmp_path, prism__url=lab.central_url)
    await init(settings)
    async with running(lab, settings) as node:
        point = await node.load(await node.backup(keep_base=False))
    direct = settings_for(lab, tmp_path, prism__url=lab.element_url)
    async with running(lab, direct) as node:
        report, new = await node.restore(point.id, name="through-the-element")
        assert new.categories == {}
        assert [line for line in report["warnings"] if "Backup" in line]
        await node.assert_only_base(None)
