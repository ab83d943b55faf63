"""Real processes: output in pipes, Ctrl-C, SIGTERM, kill, and a daemon that is given the job."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request

import pytest

from tests.support.commandline import PASSPHRASE, TWO
from tests.support.commandline import desk as new_desk
from tests.support.processes import Process

SLOW = {"seconds": 2.0}


@pytest.fixture(scope="module")
def shared(tmp_path_factory, certificates):
    with new_desk(tmp_path_factory.mktemp("desk"), certificates, vms=(TWO,)) as made:
        made.fresh(passphrase=PASSPHRASE)
        yield made


@pytest.fixture
def slowly(desk):
    """The next attaches take a while, so that a signal finds the job at work."""
    desk.lab.faults.arm("task_slow", operation="v2.vms.disks.attach", count=0, seconds=1.5)
    yield desk
    desk.lab.faults.disarm()


def test_the_first_hour_of_a_user(desk):
    for words in (["check"], ["inventory", "--full"], ["init", "-r", str(desk.place / "more")], ["orphans"]):
        done = desk.run(*words)
        assert done.code == 0, done.err
        assert isinstance(desk.run(words[0], "--json").json, dict)


def test_a_backup_and_a_restore(desk):
    backed_up = desk.process("backup", "two")
    assert backed_up.code == 0, backed_up.err
    assert all(len(line) <= 80 for line in backed_up.out.splitlines())
    listed = desk.process("points", "--json")
    assert listed.err == ""
    assert json.loads(listed.out)["points"][-1]["vm"] == "two"
    assert " of two, frozen 20" in desk.run("points", "show", "two").out.splitlines()[0]
    restored = desk.process("restore", "two", "--name", "two-restored")
    assert restored.code == 0, restored.err
    assert "network cards: disconnected" in restored.out
    refused = desk.process("restore", "two", "--name", "two-restored", "--json")
    assert refused.code == 2
    assert json.loads(refused.out)["error"]["code"] == "target.exists"


def test_a_pipe_that_closes_is_no_error(desk):
    done = subprocess.run(
        f"{' '.join(desk.command_line('inventory', '--full'))} | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=desk.environment,
    )
    assert "Traceback" not in done.stderr


def test_ctrl_c_cancels_cleans_up_and_says_so(slowly):
    desk = slowly
    before = desk.points()
    mover = Process(desk, "backup", "two", "--full")
    mover.until("attach")
    mover.tell(signal.SIGINT)
    assert mover.end() == 130
    assert "[job.interrupted]" in mover.said
    assert "Traceback" not in mover.said
    assert desk.points() == before
    assert desk.run("job", "list", "--json").json["jobs"][0]["state"] == "failed"
    desk.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_was_cut_off_is_continued_by_the_next_command(slowly, number):
    desk = slowly
    before = desk.points()
    mover = Process(desk, "backup", "two", "--full")
    mover.until("attach")
    mover.tell(number)
    assert mover.end() == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert "Traceback" not in mover.said
    assert ("go on with the next command" in mover.said) == (number == signal.SIGTERM)
    desk.lab.faults.disarm()
    following = desk.process("backup", "two")
    assert following.code == 0, following.err
    assert "Not finished by an earlier run, and continued now: backup of two" in following.err
    assert len(desk.points()) == len(before) + 2
    desk.nothing_is_left(bases=1)
    desk.verified("two")


def killed_restore(desk, name: str) -> tuple[str, tuple[str, ...]]:
    """The point, and the words of a restore to a new VM of that name that was killed in the middle."""
    point = desk.backed_up("two")["point"]
    desk.forget_cluster()
    words = ("restore", point, "--name", name)
    mover = Process(desk, *words)
    mover.until("attach")
    mover.tell(signal.SIGKILL)
    mover.end()
    desk.lab.faults.disarm()
    return point, words


def test_a_restore_that_was_cut_off_is_continued_by_the_same_words(slowly):
    desk = slowly
    point, words = killed_restore(desk, "again")
    mistaken = desk.run("backup", "twoo")
    mistaken.refuses(2, "select.none", "Not finished by this one either: restore of again")
    assert "Nothing runs jobs here now" in desk.run("job", "list").err
    other = desk.run("restore", point, "--name", "again", "--power-on")
    other.refuses(2, "target.exists", "has not ended", "mover job cancel")
    following = desk.process(*words)
    assert following.code == 0, following.err
    assert "continued now: restore of again" in following.err
    assert "VM again" in following.out
    assert [vm.name for vm in desk.lab.vms.values()].count("again") == 1
    jobs = desk.run("job", "list", "--json").json["jobs"]
    assert [job["state"] for job in jobs if job["operation"] == "restore" and job["request"]["name"] == "again"] == [
        "done"
    ]
    desk.run(*words).refuses(2, "target.exists")
    desk.nothing_is_left()


def test_a_restore_that_was_cancelled_after_a_kill_is_ended_first_then_made_anew(slowly):
    desk = slowly
    _, words = killed_restore(desk, "anew")
    former = desk.run("job", "list", "--json").json["jobs"][0]["job"]
    assert f"Job {former} is asked to end" in desk.run("job", "cancel", former[:8]).out
    listed = desk.run("job", "list")
    assert "ending" in listed.out
    following = desk.process(*words)
    assert following.code == 0, following.err
    assert f"ended now: restore of anew ({former})" in following.err
    assert [vm.name for vm in desk.lab.vms.values()].count("anew") == 1
    states = {job["job"]: job["state"] for job in desk.run("job", "list", "--json").json["jobs"]}
    assert states.pop(former) == "failed"
    assert "done" in states.values()
    desk.nothing_is_left()


def test_a_name_that_a_failed_restore_still_holds_is_freed_first(desk):
    point = desk.backed_up("two")["point"]
    desk.forget_cluster()
    desk.lab.faults.arm("task_fails", operation="v2.vms.disks.attach", count=0)
    desk.lab.faults.arm("status", operation="v*.vms.delete", count=0)
    assert desk.run("restore", point, "--name", "freed").code == 3
    assert "freed" in {vm.name for vm in desk.lab.vms.values()}
    desk.lab.faults.disarm()
    done = desk.run("restore", point, "--name", "freed")
    assert done.code == 0, done.err
    assert [vm.name for vm in desk.lab.vms.values()].count("freed") == 1


def test_a_daemon_is_given_the_job_and_ends_well(desk):
    desk.write(serve={"port": 0})
    daemon = Process(desk, "serve")
    line = daemon.until("Serving http")
    url = line.split()[1].rstrip(";").removesuffix("/metrics")
    handed = desk.process("backup", "two")
    assert handed.code == 0, handed.err
    assert "is handed to it" in handed.err
    assert "point " in handed.out
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    assert 'mover_vm_last_success_timestamp_seconds{vm="two"}' in text
    assert json.loads(urllib.request.urlopen(f"{url}/healthz").read())["ok"]
    desk.run("orphans", "--apply").refuses(7, "job.state-busy")
    desk.lab.faults.arm("task_slow", operation="v2.vms.disks.attach", count=0, seconds=1.5)
    client = Process(desk, "backup", "two", "--full")
    client.until("is handed to it")
    client.tell(signal.SIGINT)
    assert client.end() == 130
    assert "mover job cancel" in client.said
    job = desk.run("job", "list", "--json").json["jobs"][0]
    assert job["state"] in ("queued", "running")
    assert desk.run("job", "cancel", job["job"]).code == 0
    desk.lab.faults.disarm()
    daemon.tell(signal.SIGTERM)
    assert daemon.end() == 0
    assert "Stopped." in daemon.said
