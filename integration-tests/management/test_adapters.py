"""A trained adapter is deleted: its row, its files, its place in memory and its name, whatever cuts that off."""

import pytest
import schemas
from harness.client import Client
from harness.server import wait_for
from managed import Managed

MODEL = "weirgate-demo"


def rows(server: Managed) -> list[str]:
    return server.sql("SELECT name FROM adapters ORDER BY name")


def files(server: Managed) -> set[str]:
    """Whatever lies in the folders of adapters and of trainings."""
    return {path.name for folder in ("adapters", "trainings") for path in (server.state / folder).iterdir()}


def in_memory(server: Managed) -> str:
    """The names of the adapters that are loaded."""
    lines = Client(server.port).get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("weirgate_lora_requests_info{") and MODEL in line]
    return line.split('running_lora_adapters="')[1].split('"')[0]


def offered(api) -> set[str]:
    return {model["model_id"] for model in api.ok("GET", "models/")}


def of_jan(server: Managed, name: str):
    return Client(server.port).request("DELETE", f"/v1/models/{name}")


def of_management(server: Managed, name: str):
    return server.api.request("DELETE", f"models/?model_id={name}")


def trained(server: Managed) -> tuple[str, dict[str, dict]]:
    """A data set, and the jobs that trained two adapters on it, by the adapters' names."""
    dataset = server.api.add_dataset()
    jobs = {name: server.api.train(name, dataset) for name in ("stays", "goes")}
    for job in jobs.values():
        server.api.until(job, "FINISHED")
    return dataset, jobs


def deploy(api, *adapters: str) -> dict:
    job = api.ok("POST", "deploy/", {"model_id": MODEL, "adapter_ids": list(adapters)})
    wait_for(lambda: api.ok("GET", f"jobs/{job['id']}/")["progress"] == {"deployed": True}, 20, "deployed")
    return job


@pytest.mark.parametrize("delete", [of_jan, of_management], ids=["Jan's form", "the management API's form"])
def test_deleting_an_adapter_frees_everything(manage, delete):
    server = manage()
    api, (dataset, jobs) = server.api, trained(server)
    deploy(api, "stays", "goes")
    adapted = api.chat("goes")
    refused = delete(server, "goes")
    assert refused.status == 409 and "deployed" in refused.text, refused.text
    assert api.chat("goes") == adapted and rows(server) == ["goes", "stays"] and in_memory(server) == "goes,stays"
    assert files(server) == {job["id"] for job in jobs.values()}

    api.ok("POST", "deploy/interrupt/")
    # In any case of letters, as it is asked for.
    deleted = delete(server, "GOES")
    assert deleted.status == 200, deleted.text
    if delete is of_jan:
        assert deleted.json() == {"id": "GOES", "object": "model", "deleted": True}
    else:
        schemas.check([deleted.json()], schemas.MODELS)
        assert deleted.json() == {"model_id": "goes", "adapter": True, "base_model_id": MODEL}
    assert in_memory(server) == "" and rows(server) == ["stays"] and files(server) == {jobs["stays"]["id"]}
    assert offered(api) == {MODEL, "stays"}
    assert api.request("GET", f"finetune/{jobs['goes']['id']}/curve/").status == 404
    assert api.status(jobs["goes"]) == "FINISHED", "what was done stays done"
    assert delete(server, "goes").status == 404 and delete(server, "never").status == 404
    absent = api.request("POST", "deploy/", {"model_id": MODEL, "adapter_ids": ["goes"]})
    assert absent.status == 404, absent.text

    # The name is another's now.
    again = api.train("goes", dataset)
    api.until(again, "FINISHED")
    assert files(server) == {jobs["stays"]["id"], again["id"]}
    deploy(api, "goes", "stays")
    assert api.chat("goes") == adapted, "trained on the same"


def test_only_trained_adapters_are_deleted(manage):
    server = manage()
    api = server.api
    for form in ("models", "models/", "models/?model_id="):
        response = api.request("DELETE", form)
        assert response.status == 422, response.text
        schemas.check(response.json(), schemas.PROBLEMS)
    refused = of_management(server, MODEL)
    assert refused.status == 404 and "adapter" in refused.json()["detail"]
    assert of_jan(server, MODEL).status == 409 and api.chat(MODEL)


@pytest.mark.parametrize("row", [True, False], ids=["before the row", "after the row"])
def test_a_deletion_that_a_kill_cut_off_comes_to_its_end(manage, row):
    server = manage()
    api, (dataset, jobs) = server.api, trained(server)
    server.crash()
    # The steps, one by one: the folder says that it is to go, the row goes, the files go.
    goes = server.state / "adapters" / jobs["goes"]["id"]
    goes.rename(goes.with_suffix(".deleted"))
    if not row:
        server.sql("DELETE FROM adapters WHERE name = 'goes'")
    server.start()
    assert rows(server) == ["stays"] and files(server) == {jobs["stays"]["id"]} and offered(api) == {MODEL, "stays"}
    again = api.train("goes", dataset)
    api.until(again, "FINISHED")
    deploy(api, "stays", "goes")
    assert api.chat("stays") != api.chat("goes")


def test_what_cannot_be_written_down_is_not_done(manage):
    server = manage()
    api = server.api
    job = api.train("kept", api.add_dataset())
    api.until(job, "FINISHED")
    refuses = "CREATE TRIGGER refuse BEFORE DELETE ON adapters "
    if server.postgres is None:
        server.sql(refuses + "BEGIN SELECT RAISE(ABORT, 'no'); END")
    else:
        server.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$")
        server.sql(refuses + "FOR EACH ROW EXECUTE FUNCTION refuse()")
    for delete in (of_jan, of_management):
        refused = delete(server, "kept")
        assert refused.status == 503 and "its log says why" in refused.text, refused.text
    assert rows(server) == ["kept"] and files(server) == {job["id"]}
    deploy(api, "kept")
    assert api.chat("kept")
