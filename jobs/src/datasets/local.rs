//! Data sets in folders of this machine.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{CONTENT, DatasetError, Files, METADATA, write_error};
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
    fn keep(&self, id: &Id, incoming: &Path) -> Result<(), DatasetError> {
        let folder = self.folder(id);
        fs::create_dir(&folder).map_err(write_error)?;
        for file in [CONTENT, METADATA] {
            fs::rename(incoming.join(file), folder.join(file)).map_err(write_error)?;
        }
        // Names last only once their folders are on the disk, too.
        for folder in [&folder, &self.0] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(write_error)?;
        }
        Ok(())
    }

    fn open(&self, id: &Id) -> Result<Box<dyn Read + Send>, DatasetError> {
        let file = File::open(self.folder(id).join(CONTENT)).map_err(JobsError::io("the data set"))?;
        Ok(Box::new(file))
    }

    fn on_disk(&self, id: &Id, _: &Path, _: &dyn Fn() -> bool) -> Result<PathBuf, DatasetError> {
        Ok(self.folder(id).join(CONTENT))
    }

    fn remove(&self, id: &Id, _: &Path) -> Result<(), DatasetError> {
        match fs::remove_dir_all(self.folder(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(error)),
            _ => Ok(()),
        }
    }
}
