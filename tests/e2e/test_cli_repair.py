"""A pack rots, as the user lives it: verify names it, repair marks it, the next backup heals."""

from __future__ import annotations

from tests.support.commandline import REPOSITORY, flip, objects


def test_a_rotten_pack_is_repaired_by_the_next_backup(desk, point):
    pack = max(objects(desk, "packs"), key=lambda path: path.stat().st_size)
    flip(pack, at=200)
    refused = desk.run("verify", point)
    refused.refuses(REPOSITORY, "repository.damaged", pack.name)
    assert "mover repair --read-data" in refused.remedy
    shown = desk.run("repair", "--read-data")
    assert shown.code == REPOSITORY, shown.err
    assert all(words in shown.out for words in (pack.name, "1 marked", "mover backup one"))
    again = desk.run("repair", "one", "--json")
    report = again.json
    assert again.code == REPOSITORY, "the point is not whole yet"
    assert (report["damaged"], report["marked"], report["leaning"][0]["point"]) == ([], [], point)
    later = desk.backed_up("one")["point"]
    desk.forget_cluster()
    desk.verified(point)
    desk.verified(later)
    healed = desk.run("repair", "--json")
    assert (healed.code, healed.json["leaning"]) == (0, [])


def test_nothing_to_repair(desk, point):
    shown = desk.run("repair")
    assert shown.code == 0
    assert "Nothing is damaged" in shown.out
    desk.run("repair", "nope").refuses(2, "select.no-point", "'nope'")


def test_a_lost_index_is_written_anew(desk, point):
    for path in objects(desk, "index"):
        path.unlink()
    assert "1 index object written anew" in desk.run("repair").out
    desk.verified(point)
