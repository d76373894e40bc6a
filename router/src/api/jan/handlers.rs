//! The routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use weirgate_store::{Location, ModelName, Progress, Store, StoreError, Transfer};

use super::convert::{self, Seen, seconds};
use super::errors::{NotFetched, NotSwitched, deployed, not_found, of_load, of_management, of_store, stays};
use super::types::{Deleted, ListQuery, ModelDetails, ModelList, Notice, Switched};
use crate::api::docs::schemas::ErrorAnswer;
use crate::api::openai::Refusal;
use crate::api::{Administrator, AppState};
use crate::background;
use crate::management::ManagementError;
use crate::residency::{Card, Model};

const NO_STORE: &str =
    "this server keeps no models of its own; start it with `--jan-models` or `--model-store`";
/// How long it may take to learn whether a download can begin; later than that, it is in the log.
const PATIENCE: Duration = Duration::from_secs(20);

/// The models: the one that is served, its adapters, and those that can be loaded or fetched.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = super::TAG,
    operation_id = "openai_get_model_info",
    security(()),
    params(ListQuery),
    responses((status = 200, description = "The models", body = ModelList))
)]
pub(super) async fn list(State(state): State<AppState>, query: Query<ListQuery>) -> Json<ModelList> {
    let cards = state.models.cards().await;
    let filter = query.0.filter.unwrap_or_default();
    let loaded = state.models.loaded();
    let own = std::iter::once(served(&state, &state.lease)).chain(adapters(&state, &loaded));
    let others = cards.iter().filter(|card| card.digest != state.lease.card.digest);
    let all = own.chain(others.map(|card| stored(&state, card, &loaded)));
    let data = all.filter(|seen| seen.state.passes(&filter)).map(Seen::listed).collect();
    Json(ModelList { object: "list", data })
}

/// One model by its name, which may have slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    tag = super::TAG,
    operation_id = "openai_get_model",
    params(("id" = String, Path, description = "The model's name; it may have slashes")),
    responses(
        (status = 200, description = "The model", body = ModelDetails),
        (status = 404, description = "No such model", body = ErrorAnswer),
    )
)]
pub(super) async fn one(State(state): State<AppState>, Path(id): Path<String>) -> Response {
    if id == state.settings.model_id {
        return Json(served(&state, &state.lease).single()).into_response();
    }
    let loaded = state.models.loaded();
    if let Some(adapter) = adapters(&state, &loaded).find(|adapter| adapter.id == id) {
        return Json(adapter.single()).into_response();
    }
    match state.models.card(&id).await {
        Ok(card) if !state.models.is_single() => {
            Json(stored(&state, &card, &loaded).single()).into_response()
        }
        _ => not_found(&id).respond_under(state.settings.profile),
    }
}

/// Removes a model, or an adapter that was trained here. Requests that it answers are answered to their end.
#[utoipa::path(
    delete,
    path = "/v1/models/{*id}",
    tag = super::TAG,
    operation_id = "jan_delete_model",
    params(("id" = String, Path, description = "The model's name; it may have slashes")),
    responses(
        (status = 200, description = "Deleted", body = Deleted),
        (status = 403, description = "Not for who asks, or it is read in place", body = ErrorAnswer),
        (status = 404, description = "No such model", body = ErrorAnswer),
        (status = 409, description = "The server was started for it, or it is deployed", body = ErrorAnswer),
    )
)]
pub(super) async fn delete(Administrator(state): Administrator, Path(id): Path<String>) -> Response {
    answer(&state, deleted(&state, id).await)
}

async fn deleted(state: &AppState, id: String) -> Result<Deleted, Refusal> {
    if state.is_own_name(&id) {
        return Err(stays(&id));
    }
    let was = |id: String| Ok(Deleted { id, object: "model", deleted: true });
    if delete_adapter(state, &id).await? {
        return was(id);
    }
    if state.models.is_deployed(&id) {
        return Err(deployed(&id));
    }
    let (store, models, asked) = (store(state)?, state.models.clone(), id.clone());
    let work = move || {
        let known = store.find(&asked).map_or_else(|_| asked.clone(), |entry| entry.name);
        store.delete(&asked)?;
        models.unload(&known);
        Ok::<_, StoreError>(())
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| broke_off())?;
    done.map_err(|error| of_store(&error, &id))?;
    was(id)
}

/// Deletes the trained adapter of this name; whether there was one.
async fn delete_adapter(state: &AppState, name: &str) -> Result<bool, Refusal> {
    let Some(management) = state.management.clone() else { return Ok(false) };
    let asked = name.to_owned();
    let work = move || management.delete_adapter(&asked);
    match tokio::task::spawn_blocking(work).await.map_err(|_| broke_off())? {
        Ok(_) => Ok(true),
        Err(ManagementError::Absent(_)) => Ok(false),
        Err(error) => Err(of_management(error, name)),
    }
}

/// Starts (`…/start`) or stops (`…/stop`) a model: once started, it stays loaded until it is stopped.
#[utoipa::path(
    put,
    path = "/v1/models/{*id}",
    tag = super::TAG,
    operation_id = "jan_switch_model",
    params(("id" = String, Path, description = "The model's name, and `/start` or `/stop`")),
    responses((status = 200, description = "Done", body = Switched), NotSwitched)
)]
pub(super) async fn put(Administrator(state): Administrator, Path(path): Path<String>) -> Response {
    answer(&state, switched(&state, &path).await)
}

/// The same.
#[utoipa::path(
    post,
    path = "/v1/models/{*id}",
    tag = super::TAG,
    operation_id = "jan_switch_model_by_post",
    params(("id" = String, Path, description = "The model's name, and `/start` or `/stop`")),
    responses((status = 200, description = "Done", body = Switched), NotSwitched)
)]
pub(super) async fn post(admin: Administrator, path: Path<String>) -> Response {
    put(admin, path).await
}

async fn switched(state: &AppState, path: &str) -> Result<Switched, Refusal> {
    let switched = |id: &str, to| Switched { id: id.to_owned(), object: "model", state: to };
    if let Some(id) = path.strip_suffix("/start") {
        if !state.is_own_name(id) {
            state.models.start(id).await.map_err(|error| of_load(error, id))?;
        }
        return Ok(switched(id, "running"));
    }
    let id = path.strip_suffix("/stop").ok_or_else(|| not_found(path))?;
    if state.is_own_name(id) {
        return Err(stays(id));
    }
    let card = state.models.card(id).await.map_err(|error| of_load(error, id))?;
    if state.is_own_name(&card.name) {
        return Err(stays(id));
    }
    if state.models.is_deployed(&card.name) {
        return Err(deployed(id));
    }
    state.models.stop(&card.name);
    Ok(switched(id, "stopped"))
}

/// Begins to fetch a model: the files that its `model.json` names, or, of a name that no model here has, the model of
/// that name in a registry.
#[utoipa::path(
    get,
    path = "/v1/models/download/{*id}",
    tag = super::TAG,
    operation_id = "jan_download_model",
    params(("id" = String, Path, description = "The model's name; it may have slashes")),
    responses((status = 200, description = "It has begun", body = Notice), NotFetched)
)]
pub(super) async fn download(Administrator(state): Administrator, Path(id): Path<String>) -> Response {
    answer(&state, downloading(&state, id).await)
}

/// The same.
#[utoipa::path(
    post,
    path = "/v1/models/download/{*id}",
    tag = super::TAG,
    operation_id = "jan_download_model_by_post",
    params(("id" = String, Path, description = "The model's name; it may have slashes")),
    responses((status = 200, description = "It has begun", body = Notice), NotFetched)
)]
pub(super) async fn post_download(admin: Administrator, id: Path<String>) -> Response {
    download(admin, id).await
}

async fn downloading(state: &AppState, id: String) -> Result<Notice, Refusal> {
    let told = |message: String| Ok(Notice { message });
    let (store, name) = (store(state)?, id.clone());
    let (tell, begun) = oneshot::channel();
    // It goes on when whoever asked has gone.
    background::spawn("download", move || fetch(&store, &name, tell)).map_err(|_| broke_off())?;
    match tokio::time::timeout(PATIENCE, begun).await {
        Ok(Ok(Ok(true))) => told(format!("{id} is here already")),
        Ok(Ok(Err(error))) => Err(of_store(&error, &id)),
        Ok(Err(_)) => Err(broke_off()),
        Ok(Ok(Ok(false))) | Err(_) => told(format!("Starting download {id}")),
    }
}

/// Fetches a model; tells as soon as content comes, or that there is nothing to do, or what is wrong before that.
fn fetch(store: &Arc<Store>, name: &str, tell: oneshot::Sender<Result<bool, StoreError>>) {
    let mut tell = Some(tell);
    let mut answer = |result| match (tell.take(), result) {
        // Whoever asked may have gone.
        (Some(tell), result) => drop(tell.send(result)),
        (None, Err(error)) => tracing::warn!(model = name, "the download failed: {error}"),
        (None, Ok(_)) => {}
    };
    let found = store.find(name);
    if found.as_ref().is_ok_and(|entry| !matches!(entry.location, Location::Unsupported(_))) {
        return answer(Ok(true));
    }
    let mut report = |progress: Progress| {
        if progress.total > 0 {
            answer(Ok(false));
        }
        std::ops::ControlFlow::Continue(())
    };
    let fetched = match found {
        Ok(_) => store.fetch(name, &mut report),
        Err(StoreError::ModelNotFound(_)) if name.parse::<ModelName>().is_ok() => {
            store.pull(name, Transfer::default(), &mut report)
        }
        Err(error) => Err(error),
    };
    if fetched.is_ok() {
        tracing::info!(model = name, "downloaded");
    }
    answer(fetched.map(|()| false));
}

fn store(state: &AppState) -> Result<Arc<Store>, Refusal> {
    let none = || Refusal::Model { status: StatusCode::FORBIDDEN, message: NO_STORE.to_owned() };
    state.store.clone().ok_or_else(none)
}

fn broke_off() -> Refusal {
    let message = "the work broke off; the server's log says why".to_owned();
    Refusal::Model { status: StatusCode::INTERNAL_SERVER_ERROR, message }
}

fn answer<T: serde::Serialize>(state: &AppState, result: Result<T, Refusal>) -> Response {
    match result {
        Ok(body) => Json(body).into_response(),
        Err(refusal) => refusal.respond_under(state.settings.profile),
    }
}

/// The model that the server was started for, or another one that is loaded.
fn served<'a>(state: &AppState, model: &'a Model) -> Seen<'a> {
    let (card, settings) = (&model.card, &model.settings);
    Seen {
        id: settings.model_id.clone(),
        state: convert::State::of(&state.models, card),
        card,
        settings: Some(settings),
        parent: None,
        // TGI's.
        created: 0,
        owned_by: settings.model_id.clone(),
    }
}

/// The adapters of models that are loaded: of the one that the server was started for all, of others those that are
/// deployed, which answer to their names.
fn adapters<'a>(state: &'a AppState, loaded: &'a [Model]) -> impl Iterator<Item = Seen<'a>> {
    loaded.iter().flat_map(move |model| {
        let own = Arc::ptr_eq(&model.service, &state.service);
        let names = model.service.adapters.list().into_iter();
        names.filter(move |(name, _)| own || state.models.is_adapter(name)).map(move |(name, since)| Seen {
            id: name,
            created: seconds(Some(since)),
            parent: Some(model.settings.model_id.clone()),
            ..served(state, model)
        })
    })
}

/// A model of the library; how long its texts may get is known once it is loaded.
fn stored<'a>(state: &AppState, card: &'a Card, loaded: &'a [Model]) -> Seen<'a> {
    let document = card.document.as_ref();
    let owner = document.and_then(|document| document.get("owned_by")?.as_str());
    let created = document.and_then(|document| document.get("created")?.as_u64());
    let same = |model: &&Model| model.card.digest == card.digest && model.card.name == card.name;
    Seen {
        id: card.name.clone(),
        state: convert::State::of(&state.models, card),
        card,
        settings: loaded.iter().find(same).map(|model| &*model.settings),
        parent: None,
        created: created.unwrap_or_else(|| seconds(card.modified)),
        owned_by: owner.map_or_else(|| card.name.clone(), str::to_owned),
    }
}
