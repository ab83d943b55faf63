"""Who may log in to a Prism, and how one gets in: rights, passwords, certificates, clusters, a Central that goes."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from mover.clock import SystemClock
from mover.errors import (
    CertificateRejected,
    ConfigError,
    HypervisorError,
    HypervisorUnreachable,
    LoginRefused,
    RightsMissing,
    UnsupportedEndpoint,
)
from mover.hypervisor.nutanix.ahv import Ahv, connect
from mover.hypervisor.nutanix.session import Session
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import CloneSource, Consistency, Slot
from tests.support.prismworld import PREFIX, BriskClock, prism_world


async def test_a_viewer_may_look_and_is_told_what_is_missing(world):
    settings = world.settings(username=world.lab.viewer_username, password=SecretStr(world.lab.viewer_password))
    ahv = Ahv(settings, clock=BriskClock(), state_dir=world.state_dir)
    assert not (await ahv.about()).is_admin
    assert len((await ahv.inventory()).vms) == 3
    with pytest.raises(RightsMissing, match="refused") as caught:
        await ahv.snapshot(
            world.uuid("web01"), name="x", consistency=Consistency.CRASH, key="v", expires_at=SystemClock().now() + 60
        )
    assert "Cluster Admin" in caught.value.remedy
    await ahv.close()


async def test_a_wrong_password_never_locks_the_account(world):
    wrong = world.settings(password=SecretStr("wrong"))
    for _ in range(10):
        ahv = Ahv(wrong, clock=BriskClock(), state_dir=world.state_dir)
        with pytest.raises(LoginRefused):
            await ahv.about()
        await ahv.close()
    assert len([call for call in world.lab.calls if call.status == 401]) == 1
    await (await connect(world.settings(), clock=BriskClock(), state_dir=world.state_dir)).close()


async def test_each_prism_has_a_certificate_of_its_own(world):
    one = world.lab.fingerprints.split(",")[1]
    with pytest.raises(CertificateRejected) as caught:
        await connect(world.settings(fingerprint="00" * 32), clock=BriskClock(), state_dir=world.state_dir)
    assert str(caught.value.facts["fingerprint"]) in world.lab.fingerprints
    if world.side == "central":
        with pytest.raises(CertificateRejected, match=world.lab.element_url.removeprefix("https://")):
            await connect(world.settings(fingerprint=one), clock=BriskClock(), state_dir=world.state_dir)
    by_ca = world.settings(fingerprint=None, ca_file=world.lab.ca_file)
    await (await connect(by_ca, clock=BriskClock(), state_dir=world.state_dir)).close()


async def test_a_central_whose_element_cannot_be_reached(tmp_path):
    async with prism_world(tmp_path, "central", central_lists_unreachable=True) as world:
        with pytest.raises(ConfigError, match="several clusters"):
            await world.ahv.about()
        names = {cluster["name"]: cluster for cluster in await _cluster_names(world)}
        other = next(name for name in names if name != "lab")
        lost = Ahv(world.settings(cluster=other), clock=BriskClock(), state_dir=tmp_path)
        with pytest.raises(HypervisorUnreachable, match="behind") as caught:
            await lost.about()
        assert "prism.element_url" in caught.value.remedy
        assert caught.value.retryable
        wrong = world.settings(cluster=other, element_url=world.lab.element_url)
        with pytest.raises(UnsupportedEndpoint, match="another Prism"):
            await Ahv(wrong, clock=BriskClock(), state_dir=tmp_path).about()
        named = Ahv(world.settings(cluster="LAB"), clock=BriskClock(), state_dir=tmp_path)
        assert (await named.about()).cluster.name == "lab"
        await named.close()
        with pytest.raises(ConfigError, match="the Central"):
            await Ahv(world.settings(cluster="typo"), clock=BriskClock(), state_dir=tmp_path).about()


async def test_a_cluster_that_is_not_this_element_is_said(tmp_path):
    async with prism_world(tmp_path, "element") as world:
        mine = Ahv(world.settings(cluster="Lab"), clock=BriskClock(), state_dir=tmp_path)
        assert (await mine.about()).cluster.name == "lab"
        await mine.close()
        with pytest.raises(ConfigError, match=r"'typo'; the Element 127.*knows lab") as caught:
            await Ahv(world.settings(cluster="typo"), clock=BriskClock(), state_dir=tmp_path).about()
        assert "prism.url" in caught.value.remedy


async def _cluster_names(world):
    with pytest.raises(ConfigError) as caught:
        await world.ahv.about()
    return [{"name": name.strip()} for name in caught.value.message.rpartition(":")[2].split(",")]


async def test_the_clock_difference_is_measured(tmp_path):
    async with prism_world(tmp_path, "element", clock_skew_s=600.0) as world:
        assert 597 < (await world.ahv.about()).clock_offset_s < 603


async def test_who_cannot_get_in_leaves_no_connection_open(world, monkeypatch):
    """Also where the log-in goes well, and only then something is refused."""
    opened, closed = [], []
    begin, end = Session.__init__, Session.close

    def counted(self, *args, **how):
        begin(self, *args, **how)
        opened.append(self)

    async def noted(self):
        closed.append(self)
        await end(self)

    monkeypatch.setattr(Session, "__init__", counted)
    monkeypatch.setattr(Session, "close", noted)
    world.lab.faults.arm("status", operation="v3.idempotence_identifiers.create", status=400)
    with pytest.raises(HypervisorError):
        await connect(world.settings(), clock=BriskClock(), state_dir=world.state_dir)
    assert len(opened) == (2 if world.side == "central" else 1)
    assert sorted(map(id, closed)) == sorted(map(id, opened))


# --- a Central that goes away ---------------------------------------------------------------------


async def test_without_its_central_the_element_goes_on(tmp_path):
    async with prism_world(tmp_path, "central") as world:
        ahv, proxy = world.ahv, world.lab.proxy_uuid
        await ahv.about()
        world.lab.faults.arm("drop", side="pc", count=0)
        web = await ahv.vm(world.uuid("web01"))
        assert (web.categories, len(web.notes)) == ({}, 1)
        assert "categories are not known" in web.notes[0]
        found = await ahv.inventory()
        assert [vm.name for vm in found.vms] == ["proxy01", "web01", "win01"]
        assert "categories are not known" in found.notes[0]
        snapshot = await world.freeze("c")
        made = await ahv.attach(proxy, Slot("scsi", 9), CloneSource(path=snapshot.files[0].path))
        assert (await ahv.leftovers(PREFIX, proxy)).attachments == (made,)
        await ahv.detach(proxy, made.vmdisk_uuid)
        await ahv.delete_snapshot(snapshot.uuid)
        tries = [call for call in world.lab.calls if call.side == "pc" and "drop" in call.faults]
        await ahv.vm(world.uuid("web01"))
        again = [call for call in world.lab.calls if call.side == "pc" and "drop" in call.faults]
        assert again == tries


async def test_a_central_that_comes_back_is_asked_again(tmp_path):
    async with prism_world(tmp_path, "central") as world:
        clock = BriskClock(2000.0)
        world.ahv = Ahv(world.settings(), clock=clock, state_dir=tmp_path)
        await world.ahv.about()
        fault = world.lab.faults.arm("drop", side="pc", count=0)
        assert (await world.ahv.vm(world.uuid("web01"))).notes
        world.lab.faults.disarm(fault.number)
        await clock.sleep(61.0)
        web = await world.ahv.vm(world.uuid("web01"))
        assert (web.notes, web.categories) == ((), {"Backup": ("Gold",)})


async def test_a_central_may_be_needed(tmp_path):
    changes = {"on_central_down": "fail", "retry_budget": 5.0}
    async with prism_world(tmp_path, "central", changes=changes) as world:
        await world.ahv.about()
        world.lab.faults.arm("drop", side="pc", count=0)
        with pytest.raises(HypervisorUnreachable):
            await world.ahv.vm(world.uuid("web01"))
        with pytest.raises(HypervisorUnreachable):
            await world.ahv.inventory()
        assert await world.ahv.disks(world.uuid("web01"))


async def test_a_vm_with_categories_is_never_made_twice_for_want_of_a_central(tmp_path):
    async with prism_world(tmp_path, "central", changes={"retry_budget": 5.0}) as world:
        saved = await world.ahv.vm(world.uuid("web01"))
        request = VmRequest("web02", saved.spec, NicMode.NEW_MAC, {})
        made = await world.ahv.create_vm(request, key="k")
        fault = world.lab.faults.arm("drop", side="pc", count=0)
        assert "categories again is not known" in " ".join(await world.ahv.finish_vm(made, request))
        with pytest.raises(HypervisorUnreachable) as caught:
            await world.ahv.create_vm(request, key="k")
        assert "prism.url" in caught.value.remedy
        world.lab.faults.disarm(fault.number)
        assert await world.ahv.create_vm(request, key="k") == made
