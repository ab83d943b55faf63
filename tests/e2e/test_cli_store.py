"""What a user gets when the repository or its store is not as it should be; earlier points stay whole."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.support.commandline import PASSPHRASE, REPOSITORY, STORE, flip, invoke, objects


def test_a_wrong_passphrase_and_none(desk):
    desk.fresh(passphrase=PASSPHRASE)
    point = desk.backed_up("one")["point"]
    desk.forget_cluster()
    desk.write(repository={"passphrase": "guessed"})
    desk.run("backup", "one").refuses(REPOSITORY, "repository.key", "passphrase")
    desk.write(repository={"passphrase": ""})
    desk.run("points").refuses(REPOSITORY, "repository.key", "passphrase")
    desk.nothing_is_left()
    desk.write()
    desk.verified(point)


def test_init_never_leaves_encryption_open(desk, tmp_path):
    desk.fresh()
    place = str(tmp_path / "new")
    desk.run("init", "-r", place).refuses(2, "config", "passphrase", "--no-encryption")
    assert not (tmp_path / "new/repository.json").exists()
    assert "NOT encrypted" in desk.run("init", "-r", place, "--no-encryption").out
    desk.run("init", "-r", place, "--no-encryption").refuses(2, "target.exists")
    desk.write(repository={"passphrase": PASSPHRASE})
    desk.run("init", "-r", str(tmp_path / "other"), "--no-encryption").refuses(2, "usage", "passphrase")


def test_no_repository_there(desk, tmp_path):
    (tmp_path / "empty").mkdir()
    desk.run("points", "-r", str(tmp_path / "empty")).refuses(REPOSITORY, "repository.missing", "mover init")
    desk.run("points", "-r", str(tmp_path / "absent")).refuses(STORE, "storage.unreachable", "absent")


def test_a_damaged_pack_is_named(desk, point):
    pack = max(objects(desk, "packs"), key=lambda path: path.stat().st_size)
    flip(pack, at=200)
    desk.run("verify", point).refuses(REPOSITORY, "repository.damaged", pack.name)
    target = desk.place / "out.raw"
    desk.run("restore", point, "--disk", "scsi.0", "--to-file", str(target)).refuses(
        REPOSITORY, "repository.damaged", pack.name
    )
    assert not target.exists()
    outcome = desk.run("restore", point, "--name", "broken")
    outcome.refuses(REPOSITORY, "repository.damaged", pack.name)
    assert "broken" not in desk.lab.vms
    desk.nothing_is_left()


def test_a_damaged_index_is_named_or_rebuilt(desk, point):
    for path in objects(desk, "index"):
        flip(path)
    shutil.rmtree(desk.place / "state" / "cache")
    outcome = desk.run("verify", point)
    if outcome.code:
        outcome.refuses(REPOSITORY, "repository.damaged", "index")


def test_a_damaged_manifest_is_named_and_hides_nothing(desk, point):
    later = desk.backed_up("two")["point"]
    desk.forget_cluster()
    path = next(path for path in objects(desk, "points") if point in path.name)
    flip(path, at=200)
    shown = desk.run("points")
    assert shown.code == 0
    assert "UNREADABLE" in shown.out
    desk.run("verify", point).refuses(REPOSITORY, "repository.damaged", point)
    assert "PROBLEM manifests" in desk.run("check").out
    desk.verified(later)
    desk.backed_up("two")


def test_a_store_that_is_gone(desk, point):
    moved = desk.repository.rename(desk.place / "elsewhere")
    desk.run("backup", "one").refuses(STORE, "storage.unreachable", str(desk.repository))
    desk.run("points").refuses(STORE, "storage.unreachable", str(desk.repository))
    states = {line["subject"]: line["state"] for line in desk.run("check", "--json").json["checks"]}
    assert states["store"] in ("note", "problem")
    moved.rename(desk.repository)
    desk.nothing_is_left()
    desk.verified(point)


def test_too_little_room_in_the_store(desk, point):
    desk.write(limits={"store_free": "1PiB"})
    desk.run("backup", "one", "--full").refuses(7, "job.space")
    desk.nothing_is_left()
    desk.verified(point)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_store_that_fills_up_or_turns_read_only(desk):
    desk.fresh()
    mount = desk.place / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", mount], check=True)
    try:
        desk.write(repository={"url": str(mount / "repository")}, limits={"store_free": "0"})
        assert desk.run("init", "--no-encryption").code == 0
        outcome = desk.run("backup", "two")
        outcome.refuses(STORE, "storage.full", "repository")
        desk.nothing_is_left()
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        desk.run("backup", "one").refuses(STORE, "storage.denied", "Read-only")
        desk.nothing_is_left()
        assert desk.run("points").code == 0
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_points_and_disks_that_are_not_there(desk, point):
    desk.run("verify", "nope").refuses(2, "select.no-point", "'nope'")
    desk.run("restore", point, "--disk", "scsi.7", "--to-file", str(desk.place / "x")).refuses(2, "usage", "scsi.0")


def test_a_base_is_forgotten_only_by_force(desk, point):
    assert [row["is_base"] for row in desk.run("points", "--json").json["points"]] == [True]
    desk.run("points", "delete", point).refuses(REPOSITORY, "repository.point-pinned", "--force")
    assert desk.run("points", "delete", point, "--force").code == 0
    assert desk.points() == []
    assert desk.backed_up("one")["disks"][0]["mode"] == "full"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-s", "data.levle=3"), "config.unknown-key", "data.level"),
        (("-s", "prsim.url=x"), "config.unknown-key", "prism.url"),
        (("-s", "data.level=much"), "config", "data.level"),
        (("-s", "data.block_size=3MiB"), "config", "power of two"),
        (("-s", "data.budget=lots"), "config", "data.budget"),
        (("-s", "data.level"), "usage", "NAME=VALUE"),
        (("-s", "repository.store={a"), "usage", "repository.store"),
        (("-r", "ftp://there"), "usage", "ftp"),
    ],
)
def test_settings_that_cannot_be(desk, words, code, said):
    desk.run("points", *words).refuses(2, code, said)


def test_a_settings_file_that_cannot_be(tmp_path):
    file = tmp_path / "mover.yaml"
    invoke("points", "-c", str(file)).refuses(2, "config", str(file))
    file.write_text("prism: [\n")
    assert invoke("points", "-c", str(file)).code == 2
    file.write_text("prism:\n  usrname: admin\n")
    invoke("points", "-c", str(file)).refuses(2, "config.unknown-key", "prism.username")
    file.write_text("repository: {}\n")
    invoke("points", "-c", str(file)).refuses(2, "config", "repository.url")
    invoke("inventory", "-c", str(file)).refuses(2, "config", "prism.url")
