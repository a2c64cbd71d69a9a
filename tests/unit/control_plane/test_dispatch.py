"""Client tokens: each operation that takes one is done once, however often it is sent."""

from pathlib import Path
from unittest import mock

import pytest

from linewatch.control_plane.access.credentials import Identity, MasterKey
from linewatch.control_plane.access.policy import ROLES
from linewatch.control_plane.dispatch import invoke
from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.identifiers import Scope
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.operations import HANDLERS
from linewatch.control_plane.services import Call, Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.wire.page_tokens import PageTokens
from linewatch.control_plane.wire.service_model import operations

TOKENED = {
    name: operation
    for name, operation in operations("lookoutvision").items()
    if operation.input_shape.members.get("ClientToken")
}


def test_the_ten_operations_with_a_token_are_the_services() -> None:
    assert set(TOKENED) == {
        "CreateProject", "CreateDataset", "UpdateDatasetEntries", "DeleteDataset", "CreateModel", "StartModel", "StopModel", "DeleteModel",
        "DeleteProject", "StartModelPackagingJob",
    }  # fmt: skip
    for operation in TOKENED.values():
        place = operation.input_shape.members["ClientToken"].serialization
        assert (place["location"], place["name"]) == ("header", "X-Amzn-Client-Token")


@pytest.mark.parametrize("name", sorted(TOKENED))
def test_what_has_a_token_is_done_once(tmp_path: Path, name: str) -> None:
    options = Settings(data=str(tmp_path))
    store = Store(options.database_url)
    store.migrate()
    services = Services(options, store, DirectoryObjects(tmp_path / "objects"), MasterKey.open(tmp_path), PageTokens(b"k"),
                        HostingManager(options, store))  # fmt: skip
    call = Call(services, Scope("1" * 12, "r"), Identity("a", "1" * 12, ROLES["full"], "n"))
    answers = iter([{"Status": "first"}, {"Status": "second"}])
    with mock.patch.dict(HANDLERS["lookoutvision"], {name: lambda *_: next(answers)}):
        sent = {"ProjectName": "p", "ModelVersion": "1", "ClientToken": "t"}
        assert [invoke(call, TOKENED[name], dict(sent)) for _ in range(3)] == [{"Status": "first"}] * 3
        assert invoke(call, TOKENED[name], sent | {"ClientToken": "u"}) == {"Status": "second"}
    store.close()
