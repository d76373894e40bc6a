//! Started as SageMaker starts a container: with the one argument `serve`. Its variables become flags, so everything
//! after this knows one kind of setting only. Sources: TGI's SageMaker entry point; SageMaker's container contract
//! (port 8080, the model in `/opt/ml/model`, SIGKILL 30 seconds after SIGTERM).

use std::ffi::OsString;
use std::path::Path;

use crate::config::Env;
use crate::values::parse_bool;

/// The argument that asks for this profile.
pub const COMMAND: &str = "serve";
const MODEL_FOLDER: &str = "/opt/ml/model";
const PORT: &str = "8080";
/// Seconds to finish requests in: SageMaker kills after 30.
const DRAIN: &str = "25";
const TRUST: &str = "--trust-remote-code";

/// `argv` without the command, with a flag for each of SageMaker's variables. What was typed comes first: a flag that
/// is there already, or whose own variable is set, is left alone, but for the port, which the platform fixes.
pub fn arguments(argv: &[OsString], env: Env) -> Vec<OsString> {
    arguments_at(argv, env, Path::new(MODEL_FOLDER))
}

fn arguments_at(argv: &[OsString], env: Env, folder: &Path) -> Vec<OsString> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let folder = folder.join("config.json").is_file().then(|| folder.display().to_string());
    let mapped = [
        ("--port", None, Some(PORT.to_owned())),
        ("--graceful-termination-timeout", Some("GRACEFUL_TERMINATION_TIMEOUT"), Some(DRAIN.to_owned())),
        ("--model-id", Some("MODEL_ID"), set("HF_MODEL_ID").or(folder)),
        ("--revision", Some("REVISION"), set("HF_MODEL_REVISION")),
        ("--num-shard", Some("NUM_SHARD"), set("SM_NUM_GPUS").filter(|gpus| gpus != "0")),
        ("--quantize", Some("QUANTIZE"), set("HF_MODEL_QUANTIZE")),
    ];
    let mut arguments: Vec<OsString> = argv.iter().take(1).chain(argv.iter().skip(2)).cloned().collect();
    for (flag, own_variable, value) in mapped {
        let typed = argv.iter().filter_map(|argument| argument.to_str()).any(|argument| {
            argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        });
        if let Some(value) = value
            && !typed
            && own_variable.and_then(set).is_none()
        {
            arguments.extend([flag.into(), value.into()]);
        }
    }
    let trust = set("HF_MODEL_TRUST_REMOTE_CODE").is_some_and(|text| parse_bool(&text) == Ok(true));
    if trust && !argv.iter().any(|argument| argument == TRUST) {
        arguments.push(TRUST.into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(argv: &[&str], variables: &[(&str, &str)], folder: &Path) -> Vec<String> {
        let env =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        arguments_at(&argv, &env, folder)
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    const NOWHERE: &str = "/nonexistent";

    #[test]
    fn port_and_drain_are_the_platforms() {
        let expected = ["weirgate", "--port", "8080", "--graceful-termination-timeout", "25"];
        assert_eq!(run(&["weirgate", "serve"], &[("PORT", "80")], Path::new(NOWHERE)), expected);
    }

    #[test]
    fn its_variables_become_flags() {
        let variables = [
            ("HF_MODEL_ID", "org/name"),
            ("HF_MODEL_REVISION", "v2"),
            ("SM_NUM_GPUS", "1"),
            ("HF_MODEL_QUANTIZE", "awq"),
            ("HF_MODEL_TRUST_REMOTE_CODE", "true"),
        ];
        let found = run(&["weirgate", "serve"], &variables, Path::new(NOWHERE));
        let expected =
            ["--model-id", "org/name", "--revision", "v2", "--num-shard", "1", "--quantize", "awq"];
        assert_eq!(found[5..13], expected);
        assert_eq!(found[13..], ["--trust-remote-code"]);
    }

    #[test]
    fn what_was_typed_or_set_by_its_own_name_wins() {
        let variables = [("HF_MODEL_ID", "org/name"), ("GRACEFUL_TERMINATION_TIMEOUT", "10")];
        let argv = ["weirgate", "serve", "--model-id=./mine", "--port", "9"];
        assert_eq!(
            run(&argv, &variables, Path::new(NOWHERE)),
            ["weirgate", "--model-id=./mine", "--port", "9"]
        );
    }

    #[test]
    fn a_mounted_model_is_served_where_no_other_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        let found = run(&["weirgate", "serve"], &[("SM_NUM_GPUS", "0")], folder.path());
        assert_eq!(found[5..], ["--model-id", folder.path().to_str().unwrap()]);
        let named = run(&["weirgate", "serve"], &[("HF_MODEL_ID", "org/name")], folder.path());
        assert_eq!(named[5..], ["--model-id", "org/name"]);
    }
}
