//! The folder of one server's state: its database (unless that is elsewhere), data sets, trainings and adapters.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::JobsError;
use crate::id::Id;

/// The folder, held by one process at a time.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    owner: Id,
    /// Held as long as this lives.
    _lock: File,
}

impl StateFolder {
    /// Makes the folder where it is missing and takes it.
    ///
    /// # Errors
    /// [`JobsError::InUse`] where another process has it; a folder that cannot be written to.
    pub fn open(path: &Path) -> Result<Self, JobsError> {
        let io = |path: &Path| JobsError::io(path.display().to_string());
        // It is written down where adapters lie, and the next start may be from elsewhere.
        let path = &std::path::absolute(path).map_err(io(path))?;
        fs::create_dir_all(path).map_err(io(path))?;
        let lock_path = path.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io(&lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(JobsError::InUse(path.to_owned()));
        }
        let owner = owner(&path.join("owner"))?;
        Ok(Self { path: path.to_owned(), owner, _lock: lock })
    }

    /// Who works here: the same at every start, so that a server knows its own jobs again.
    pub fn owner(&self) -> &Id {
        &self.owner
    }

    /// The subfolder `name`, made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf, JobsError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(JobsError::io(path.display().to_string()))?;
        Ok(path)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("jobs.sqlite")
    }
}

fn owner(path: &Path) -> Result<Id, JobsError> {
    let known = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if let Some(known) = known {
        return Ok(known);
    }
    let new = Id::random();
    fs::write(path, new.as_str()).map_err(JobsError::io(path.display().to_string()))?;
    Ok(new)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_process_at_a_time_and_remembers_whose_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/state");
        let first = StateFolder::open(&path).unwrap();
        assert!(matches!(StateFolder::open(&path), Err(JobsError::InUse(_))));
        let owner = first.owner().clone();
        drop(first);
        assert_eq!(*StateFolder::open(&path).unwrap().owner(), owner);
        let other = StateFolder::open(&parent.path().join("other")).unwrap();
        assert_ne!(*other.owner(), owner);
    }
}
