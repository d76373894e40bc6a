//! `--state-dir` and what belongs to it.

use weirgate_hub::HubSettings;
use weirgate_router::{DatasetPlace, ManagementSettings, S3Settings};

use crate::cli::LowArgs;
use crate::config::Env;
use crate::error::ArgumentError;
use crate::values::Bucket;

/// What is kept of jobs and data sets; `None` without a folder for it.
///
/// # Errors
/// A place of data sets without its keys; a flag that needs the folder.
pub fn settings(
    args: &LowArgs,
    hub: &HubSettings,
    env: Env,
) -> Result<Option<ManagementSettings>, ArgumentError> {
    let Some(folder) = args.state_dir.clone() else {
        let given = [
            ("state-database", args.state_database.is_some()),
            ("dataset-store", args.dataset_store.is_some()),
            ("training-memory", args.training_memory.is_some()),
        ];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(ArgumentError::NoStateDir { flag }),
            None => Ok(None),
        };
    };
    Ok(Some(ManagementSettings {
        folder,
        database: args.state_database.clone(),
        datasets: args.dataset_store.as_ref().map_or(Ok(DatasetPlace::Local), |bucket| s3(bucket, env))?,
        dataset_limit: args.dataset_limit,
        hub: hub.clone(),
        training_memory: args.training_memory,
    }))
}

fn s3(bucket: &Bucket, env: Env) -> Result<DatasetPlace, ArgumentError> {
    let get = |names: &[&'static str]| {
        names
            .iter()
            .find_map(|name| env(name))
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let key = |name: &'static str| get(&[name]).ok_or(ArgumentError::NoS3Key { name });
    Ok(DatasetPlace::S3(S3Settings {
        bucket: bucket.name.clone(),
        prefix: bucket.prefix.clone(),
        region: get(&["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or_else(|| "us-east-1".to_owned()),
        endpoint: get(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
        access_key: key("AWS_ACCESS_KEY_ID")?,
        secret_key: key("AWS_SECRET_ACCESS_KEY")?,
    }))
}
