//! Data sets in folders of this machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{CONTENT, DatasetError, Files, write_error};
use crate::error::JobsError;
use crate::id::Id;

pub(super) struct Local(PathBuf);

impl Local {
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn folder(&self, id: &Id) -> PathBuf {
        self.0.join(id.as_str())
    }
}

impl Files for Local {
    fn keep(&self, id: &Id, folder: &Path) -> Result<(), DatasetError> {
        fs::rename(folder, self.folder(id)).map_err(write_error)?;
        // The name lasts only once its folder is on the disk, too.
        File::open(&self.0).and_then(|folder| folder.sync_all()).map_err(write_error)
    }

    fn open(&self, id: &Id) -> Result<Box<dyn Read + Send>, DatasetError> {
        let file = File::open(self.folder(id).join(CONTENT)).map_err(JobsError::io("the data set"))?;
        Ok(Box::new(file))
    }

    fn on_disk(&self, id: &Id, _: &Path) -> Result<PathBuf, DatasetError> {
        Ok(self.folder(id).join(CONTENT))
    }

    fn remove(&self, id: &Id) -> Result<(), DatasetError> {
        fs::remove_dir_all(self.folder(id)).map_err(write_error)
    }

    fn retain(&self, ids: &[Id]) -> Result<(), DatasetError> {
        let entries = fs::read_dir(&self.0).map_err(JobsError::io("the data sets"))?;
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok());
            if id.is_some_and(|id| !ids.contains(&id)) {
                fs::remove_dir_all(entry.path()).map_err(write_error)?;
            }
        }
        Ok(())
    }
}
