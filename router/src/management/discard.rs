//! Adapters that were trained here are deleted.
//!
//! First the folder gets a name that says it is to go, then the row goes, then the files. Cut off anywhere, the next
//! start does the rest: until the first step nothing has happened, and after it the adapter is gone.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weirgate_jobs::{Adapter, Id, JobsError, StateFolder, Table};

use super::{ADAPTERS, Management, ManagementError, Offer, TRAININGS, lock};

/// The extension of folders that are to go.
const LEAVING: &str = "deleted";
/// An adapter whose deployment has ended gets so long to leave memory.
const PATIENCE: Duration = Duration::from_secs(2);

impl Management {
    /// Deletes an adapter that was trained here: its row, its files, and the name. What it was.
    ///
    /// # Errors
    /// [`ManagementError::Absent`]; [`ManagementError::Taken`] while it is in use.
    pub fn delete_adapter(&self, name: &str) -> Result<Offer, ManagementError> {
        // No deployment begins meanwhile.
        let deploying = lock(&self.deploying);
        let offer = |adapter: &Adapter| Offer::adapter(adapter.name.clone(), adapter.base.clone());
        let adapter = self.table.adapters()?.into_iter().find(|adapter| offer(adapter).is_called(name));
        let adapter = adapter
            .ok_or_else(|| ManagementError::Absent(format!("no adapter {name:?} was trained here")))?;
        self.check_unused(&adapter)?;
        let own = self.folder.subfolder(ADAPTERS)?.join(adapter.job.as_str());
        let leaving = leaving(&own);
        rename(&own, &leaving).map_err(failed(&own))?;
        if let Err(error) = self.table.remove_adapter(&adapter.job) {
            // Where this fails, too, the next start removes the row.
            let _ = rename(&leaving, &own);
            return Err(error.into());
        }
        drop(deploying);
        clear(&self.folder, &adapter.job)?;
        tracing::info!(adapter = adapter.name, "deleted");
        Ok(offer(&adapter))
    }

    /// Whether nothing here needs the adapter.
    fn check_unused(&self, adapter: &Adapter) -> Result<(), ManagementError> {
        let name = &adapter.name;
        let taken = |text: String| Err(ManagementError::Taken(text));
        if self.deployment()?.is_some_and(|(deployment, _)| deployment.adapter_ids.contains(name)) {
            return taken(format!("{name:?} is deployed: it stays until its deployment is interrupted"));
        }
        if self.table.get(&adapter.job).is_ok_and(|job| job.status.is_live()) {
            return taken(format!("{name:?} is being trained: it can be deleted once its job has ended"));
        }
        let begun = Instant::now();
        while self.models.services().iter().any(|service| service.adapters.contains(name)) {
            if begun.elapsed() > PATIENCE {
                return taken(format!("{name:?} is loaded: unload it, and delete it then"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Does the rest of what an earlier server began to delete.
///
/// # Errors
/// Those of the database, and of removing.
pub(super) fn finish(folder: &StateFolder, table: &Table) -> Result<(), ManagementError> {
    let adapters = folder.subfolder(ADAPTERS)?;
    for entry in fs::read_dir(&adapters).map_err(failed(&adapters))?.flatten() {
        let path = entry.path();
        let job = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Id>().ok());
        if let Some(job) = job.filter(|_| path.extension().is_some_and(|end| end == LEAVING)) {
            table.remove_adapter(&job)?;
            clear(folder, &job)?;
        }
    }
    Ok(())
}

/// Removes what is left of a training whose adapter goes; the folder that says so last.
fn clear(folder: &StateFolder, job: &Id) -> Result<(), ManagementError> {
    let training = folder.subfolder(TRAININGS)?.join(job.as_str());
    let adapter = leaving(&folder.subfolder(ADAPTERS)?.join(job.as_str()));
    for path in [training, adapter] {
        absent_is_fine(fs::remove_dir_all(&path)).map_err(failed(&path))?;
    }
    Ok(())
}

fn leaving(folder: &Path) -> PathBuf {
    folder.with_extension(LEAVING)
}

/// Files that somebody has removed already are not missed.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    absent_is_fine(fs::rename(from, to))?;
    // The row must not go before this is on the disk.
    from.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ManagementError {
    let what = path.display().to_string();
    move |source| JobsError::Io { what, source }.into()
}
