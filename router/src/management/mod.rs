//! Models, data sets, trainings and the deployment as long work that outlives the process: what `/api/v1` manages.

mod deploy;
mod discard;
mod download;
mod error;
mod figures;
mod models;
mod names;
mod train;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weirgate_hub::{HubSettings, ModelId};
use weirgate_jobs::{
    DatabaseUrl, DatasetError, DatasetRow, Datasets, Id, Job, JobsError, Kind, LogLine, NewDataset, NewJob,
    Page, Place, Runner, StateFolder, Table, Whose, Work,
};
use weirgate_store::Store;

use crate::config::ModelLocation;
use crate::residency::Models;
use deploy::Deploying;
pub(crate) use deploy::Deployment;
use download::Downloading;
pub(crate) use error::ManagementError;
use figures::Figures;
pub(crate) use models::Offer;
use names::Names;
use train::Training;
pub(crate) use train::TrainingSubject;

/// A server has one deployment.
const DEPLOYMENT: &str = "deployment";
const MAX_NAME: usize = 200;
/// The folder of what trainings leave, in that of the state.
const ADAPTERS: &str = "adapters";
/// And that of what they need meanwhile.
const TRAININGS: &str = "trainings";
/// What trainings get to write a checkpoint when the server ends.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where the state is, and what work may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagementSettings {
    /// The folder of this server's state.
    pub folder: PathBuf,
    /// A database that servers share; `None`: one of this server's own, in the folder.
    pub database: Option<DatabaseUrl>,
    pub datasets: Place,
    /// Bytes of a data set.
    pub dataset_limit: u64,
    /// Where models are downloaded from, and to.
    pub hub: HubSettings,
    /// Bytes that a training may allocate; `None`: any number.
    pub training_memory: Option<u64>,
}

/// All that `/api/v1` works on.
pub(crate) struct Management {
    folder: StateFolder,
    table: Arc<Table>,
    datasets: Arc<Datasets>,
    dataset_limit: u64,
    runner: Runner,
    models: Arc<Models>,
    store: Arc<Store>,
    figures: Arc<Figures>,
    /// Held by who has a deployment begin, or sees to it that none does.
    deploying: Mutex<()>,
}

impl Management {
    /// Opens the state and goes on with what was under way. Blocks.
    ///
    /// # Errors
    /// State that cannot be opened.
    pub fn start(
        settings: &ManagementSettings,
        base: &ModelLocation,
        models: Arc<Models>,
        store: Arc<Store>,
    ) -> Result<Arc<Self>, ManagementError> {
        let folder = StateFolder::open(&settings.folder)?;
        let table = Arc::new(Table::open(&folder, settings.database.as_ref())?);
        let datasets = Arc::new(Datasets::open(&folder, table.clone(), &settings.datasets)?);
        discard::finish(&folder, &table)?;
        let figures = Arc::new(Figures::default());
        let names = Arc::new(Names::new(models.clone(), store.clone()));
        names.refresh();
        let training = Training {
            base: base.clone(),
            models: models.clone(),
            store: store.clone(),
            datasets: datasets.clone(),
            trainings: folder.subfolder(TRAININGS)?,
            adapters: folder.subfolder(ADAPTERS)?,
            memory: settings.training_memory,
            figures: figures.clone(),
        };
        let work: Vec<Box<dyn Work>> = vec![
            Box::new(Downloading { store: store.clone(), hub: settings.hub.clone(), names: names.clone() }),
            Box::new(Deploying { names, table: table.clone(), runtime: tokio::runtime::Handle::current() }),
            Box::new(training),
        ];
        let runner = Runner::start(table.clone(), work)?;
        let dataset_limit = settings.dataset_limit;
        let deploying = Mutex::default();
        Ok(Arc::new(Self {
            folder,
            table,
            datasets,
            dataset_limit,
            runner,
            models,
            store,
            figures,
            deploying,
        }))
    }

    /// Leaves what is under way to be gone on with at the next start. Blocks.
    pub fn shut_down(&self) {
        self.runner.shut_down(FAREWELL);
    }

    /// The series of the training under way.
    pub fn metrics(&self) -> String {
        self.figures.render()
    }

    /// Begins to bring a model here; where that is under way already, the job that does it.
    pub fn download(&self, model: &str) -> Result<Job, ManagementError> {
        let id = model
            .parse::<ModelId>()
            .map_err(|error| ManagementError::invalid("model_id", format!("{error}")))?;
        let slot = format!("download:{id}");
        let job = NewJob {
            kind: Kind::Download,
            name: format!("DOWNLOAD_{id}"),
            slot: Some(slot.clone()),
            subject: json!({"model_id": id.as_str()}),
        };
        let job = loop {
            match self.table.insert(&job) {
                Err(JobsError::Conflict) => {}
                job => break job?,
            }
            // It may have ended in between.
            if let Some(job) = self.table.live(&slot)? {
                break job;
            }
        };
        self.runner.nudge();
        self.begun(job)
    }

    /// The job as it is once it was begun, unless it has to wait for others.
    fn begun(&self, mut job: Job) -> Result<Job, ManagementError> {
        for _ in 0..20 {
            if job.status != weirgate_jobs::Status::Created {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            job = self.table.get(&job.id)?;
        }
        Ok(job)
    }

    /// Has a model and adapters of its be served, in place of those that were.
    pub fn deploy(&self, model: &str, adapters: &[String]) -> Result<Job, ManagementError> {
        let _deploying = lock(&self.deploying);
        let offers = self.offers()?;
        let known = |name: &str, adapter: bool| {
            let named = |offer: &&Offer| offer.is_called(name) && offer.base.is_some() == adapter;
            offers.iter().find(named)
        };
        let Some(model) = known(model, false) else {
            let what =
                if known(model, true).is_some() { "is an adapter; name its model" } else { "is not here" };
            return Err(ManagementError::Absent(format!("the model {model:?} {what}")));
        };
        for name in adapters {
            let adapter = known(name, true);
            let adapter = adapter
                .ok_or_else(|| ManagementError::Absent(format!("the adapter {name:?} is not here")))?;
            if !adapter.base.as_deref().is_some_and(|base| model.is_called(base)) {
                let base = adapter.base.as_deref().unwrap_or_default();
                let reason = format!("{name:?} is an adapter of {base:?}, not of {:?}", model.name);
                return Err(ManagementError::invalid("adapter_ids", reason));
            }
        }
        let deployment = Deployment { model_id: model.name.clone(), adapter_ids: adapters.to_vec() };
        let suffix =
            if adapters.is_empty() { String::new() } else { format!("_adapters_{}", adapters.join("_")) };
        let job = NewJob {
            kind: Kind::Deploy,
            name: format!("DEPLOY_{}{suffix}", model.name),
            slot: Some(DEPLOYMENT.to_owned()),
            subject: serde_json::to_value(&deployment).unwrap_or_default(),
        };
        let job = self.table.replace(&job)?;
        self.runner.nudge();
        Ok(job)
    }

    /// What this server has deployed, or is about to.
    pub fn deployment(&self) -> Result<Option<(Deployment, Job)>, ManagementError> {
        let live = self.table.live(DEPLOYMENT)?;
        Ok(live.map(|job| (Deployment::of(&job), job)))
    }

    /// This server's last deployment, however it went.
    pub fn last_deployment(&self) -> Result<Option<(Deployment, Job)>, ManagementError> {
        Ok(self.last(Kind::Deploy)?.map(|job| (Deployment::of(&job), job)))
    }

    fn last(&self, kind: Kind) -> Result<Option<Job>, ManagementError> {
        let order = weirgate_jobs::Order::NewestFirst;
        let page = Page { kind: Some(kind), of: Whose::Own, limit: Some(1), order, ..Page::default() };
        Ok(self.table.list(&page)?.into_iter().next())
    }

    /// Begins to train an adapter, after those that wait already.
    pub fn train(
        &self,
        name: &str,
        model: &str,
        dataset: &str,
        hyperparameters: Map<String, Value>,
    ) -> Result<Job, ManagementError> {
        let offers = self.offers()?;
        self.check_new_name(name, &offers)?;
        let base = offers.iter().find(|offer| offer.is_called(model) && offer.base.is_none());
        let base = base.ok_or_else(|| ManagementError::Absent(format!("the model {model:?} is not here")))?;
        if !base.trainable {
            let reason = format!("the model {model:?} is none that adapters can be trained for");
            return Err(ManagementError::invalid("model_id", reason));
        }
        let absent = || ManagementError::Absent(format!("the data set {dataset:?} is not here"));
        let id: Id = dataset.parse().map_err(|_| absent())?;
        self.table.dataset(&id)?.ok_or_else(absent)?;
        let subject = TrainingSubject {
            name: name.to_owned(),
            model_id: base.name.clone(),
            dataset_id: id.to_string(),
            hyperparameters,
        };
        let job = NewJob {
            kind: Kind::Train,
            name: format!("FT_{}_{id}", base.name),
            // Names are asked for in either case.
            slot: Some(format!("train:{}", name.to_lowercase())),
            subject: serde_json::to_value(&subject).unwrap_or_default(),
        };
        let job = self.table.insert(&job).map_err(|error| match error {
            JobsError::Conflict => ManagementError::Taken(format!("an adapter {name:?} is being trained")),
            error => error.into(),
        })?;
        self.runner.nudge();
        Ok(job)
    }

    fn check_new_name(&self, name: &str, offers: &[Offer]) -> Result<(), ManagementError> {
        let unusable = |c: char| c == ',' || c.is_control();
        let fits = !name.trim().is_empty() && name.len() <= MAX_NAME && !name.chars().any(unusable);
        if !fits || name.ends_with(":latest") {
            let reason =
                format!("must have 1 to {MAX_NAME} bytes, no comma, no control characters, no tag `latest`");
            return Err(ManagementError::invalid("name", reason));
        }
        let reserved = [names::MODEL, names::EMBEDDING, names::RANKING, "tgi"]
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name));
        if reserved || offers.iter().any(|offer| offer.is_called(name)) {
            return Err(ManagementError::Taken(format!("there is a model or an adapter {name:?} already")));
        }
        Ok(())
    }

    /// This server's training under way, or else its last one.
    pub fn training(&self) -> Result<Option<(TrainingSubject, Job)>, ManagementError> {
        let running = Page {
            kind: Some(Kind::Train),
            status: Some(weirgate_jobs::Status::Running),
            of: Whose::Own,
            limit: Some(1),
            ..Page::default()
        };
        let job = match self.table.list(&running)?.into_iter().next() {
            Some(job) => Some(job),
            None => self.last(Kind::Train)?,
        };
        Ok(job.map(|job| (TrainingSubject::of(&job), job)))
    }

    /// The picture of a training's losses.
    pub fn curve(&self, job: &Id) -> Result<Vec<u8>, ManagementError> {
        std::fs::read(train::curve(&self.folder.subfolder(ADAPTERS)?, job))
            .map_err(|_| ManagementError::Absent(format!("there is no picture of the job {job}")))
    }

    pub fn job(&self, id: &Id) -> Result<Job, ManagementError> {
        Ok(self.table.get(id)?)
    }

    pub fn jobs(&self, page: &Page) -> Result<Vec<Job>, ManagementError> {
        Ok(self.table.list(page)?)
    }

    pub fn logs(&self, id: &Id, after: i64, limit: u32) -> Result<Vec<LogLine>, ManagementError> {
        self.table.get(id)?;
        Ok(self.table.logs(id, after, limit)?)
    }

    /// Ends a job; the job as it is then.
    pub fn interrupt(&self, id: &Id) -> Result<Job, ManagementError> {
        let job = self.table.kill(id)?;
        self.runner.nudge();
        Ok(job)
    }

    pub fn datasets(&self) -> Result<Vec<DatasetRow>, ManagementError> {
        Ok(self.table.datasets()?)
    }

    pub fn dataset(&self, id: &str) -> Result<(DatasetRow, Box<dyn std::io::Read + Send>), ManagementError> {
        let absent = || ManagementError::Absent(format!("the data set {id:?} is not here"));
        let row = self.table.dataset(&id.parse().map_err(|_| absent())?)?.ok_or_else(absent)?;
        let content = self.datasets.read(&row.id)?;
        Ok((row, content))
    }

    pub fn add_dataset(
        &self,
        name: String,
        description: Option<String>,
        source: &mut dyn std::io::Read,
    ) -> Result<DatasetRow, DatasetError> {
        self.datasets.add(&NewDataset { name, description, limit: self.dataset_limit }, source)
    }

    pub fn dataset_limit(&self) -> u64 {
        self.dataset_limit
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
