"""Every request that Ahv sends in a backup and a restore, held against the vendor's own API definitions.

As in test_lab_vendor: without the definitions nothing is checked.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema
import pytest

from mover.lab.gateway import Logged
from mover.lab.operations import OPERATIONS, Operation
from tests.contract import test_hypervisor_journey as journey
from tests.contract.test_lab_vendor import FOLDER, check_v2, strange_v3, v2, v3
from tests.support.prismworld import prism_world

pytestmark = pytest.mark.skipif(
    not (FOLDER / "v3.json").exists(), reason=f"no vendor definitions in {FOLDER} (set NUTANIX_DEFINITIONS)"
)

NEWER = {"vtpm_config"}
"""In newer builds than the Swagger's; a Prism that refuses it gets the VM without."""
BY_NAME = {operation.name: operation for operation in OPERATIONS}


def check_v3(operation: Operation, call: Logged) -> None:
    documented = v3()["paths"][operation.path.removeprefix("v3")][operation.method.lower()]
    wanted = next((one["schema"] for one in documented.get("parameters", ()) if one.get("in") == "body"), None)
    assert not urlsplit(call.path).query, call.path
    if wanted is None:
        assert call.body is None, call.path
        return
    jsonschema.Draft4Validator({**wanted, "definitions": v3()["definitions"]}).validate(call.body)
    assert strange_v3(wanted, call.body) <= NEWER


def check_request_v2(operation: Operation, call: Logged) -> None:
    documents = v2(operation.name.split(".")[1])
    asked = urlsplit(call.path)
    documented = documented_v2(documents, operation)
    known = {one["name"] for one in documented["parameters"] if one["paramType"] == "query"}
    assert dict(parse_qsl(asked.query)).keys() <= known, call.path
    wanted = next((one["type"] for one in documented["parameters"] if one["paramType"] == "body"), None)
    if wanted is None:
        assert call.body is None, call.path
    else:
        body = {name: value for name, value in call.body.items() if name != "machine_type"}
        check_v2(documents["models"], wanted, body, operation.name)


def documented_v2(documents: Any, operation: Operation) -> Any:
    wanted = operation.path.removeprefix("v2").rstrip("/")
    for api in documents["apis"]:
        for one in api["operations"]:
            if one["method"] == operation.method and api["path"].replace("vm_uuid", "uuid").rstrip("/") == wanted:
                return one
    raise AssertionError(f"{operation.name} is not documented")


@pytest.mark.parametrize("side", journey.SIDES)
@pytest.mark.parametrize("switch", ["as-is", "element-makes-no-vms-by-v3", "element-lists-all-clusters"])
async def test_every_request_is_one_that_the_vendor_documents(tmp_path, side, switch):
    async with prism_world(tmp_path, side, **journey.SWITCHES[switch]) as world:
        await world.ahv.about()
        await world.ahv.inventory()
        first, second = await journey.backs_up(world)
        await journey.restores(world)
        await journey.cleans(world, first, second)
        calls = world.lab.calls
    assert len({call.operation for call in calls}) > 15
    for call in calls:
        operation = BY_NAME[call.operation]
        (check_request_v2 if operation.api == "v2" else check_v3)(operation, call)
