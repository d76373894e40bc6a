//! `weirgate`: the command people type. It finds the model and keeps the router process alive.

mod adapters;
mod child;
mod cli;
mod config;
mod error;
mod keys;
mod logging;
mod management;
mod model;
mod quantize;
mod registry;
mod runtime_info;
mod sagemaker;
mod signals;
mod supervise;
mod table;
mod values;
mod vertex;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use weirgate_hub::{Hub, HubSettings};

use crate::child::{ROUTER_COMMAND, RouterService};
use crate::cli::{DownloadArgs, Typed};
use crate::config::Config;
use crate::error::{ArgumentError, LauncherError};
use crate::signals::StartPhase;
use crate::supervise::{Policy, supervise};

fn main() -> ExitCode {
    let mut argv: Vec<OsString> = std::env::args_os().collect();
    match argv.get(1).and_then(|command| command.to_str()) {
        Some(ROUTER_COMMAND) => child::run_router(argv.into_iter().skip(2)),
        Some(weirgate_router::TEMPLATE_COMMAND) => weirgate_router::run_templates(),
        Some("env") => show(&runtime_info::describe()),
        // The second is TGI's name for it.
        Some("openapi" | "print-schema") => show(&weirgate_router::openapi_json()),
        Some("download") => {
            argv.remove(1);
            dispatch(cli::parse_download(argv), download)
        }
        Some("quantize") => {
            argv.remove(1);
            dispatch(cli::parse_quantize(argv), quantize::quantize)
        }
        Some(sagemaker::COMMAND) => dispatch(cli::parse(sagemaker::arguments(&argv, &variable)), serve),
        _ => dispatch(cli::parse(argv), serve),
    }
}

fn dispatch<A>(parsed: Result<A, clap::Error>, run: fn(A) -> Result<u8, LauncherError>) -> ExitCode {
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match run(arguments) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints `text`. A reader that has seen enough, as `head`, is no failure.
fn show(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("Error: cannot write: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Serves until stopped; returns the exit status.
fn serve(typed: Typed) -> Result<u8, LauncherError> {
    let signals = StartPhase::begin()?;
    logging::init(&config::log_settings(typed.args.json_output, &variable));
    if typed.args.env {
        tracing::info!("{}", runtime_info::describe());
    }
    let Config { model, adapters, hub, mut router, warnings } = Config::resolve(typed.args, &variable)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !typed.ineffective.is_empty() {
        let flags: Vec<String> =
            typed.ineffective.iter().map(|given| format!("{} ({})", given.flag, given.reason)).collect();
        tracing::warn!("Flags without effect: {}", flags.join(", "));
    }
    tracing::info!("{}", table::settings_table(&router));
    check_address(router.listen)?;
    router.lora_adapters = adapters::locate(adapters, &hub)?;
    let found = model::locate(model, hub)?;
    router.model = found.location;
    router.model_sha = found.sha;
    let policy = Policy::with_drain(Duration::from_secs(router.graceful_termination_seconds));
    let mut service = RouterService::new(&router)?;
    Ok(supervise(&mut service, &signals.into_events()?, &policy))
}

/// A taken port is said at once, and not after the model was loaded.
fn check_address(address: SocketAddr) -> Result<(), LauncherError> {
    TcpListener::bind(address).map(drop).map_err(|source| LauncherError::Listen { address, source })
}

fn download(args: DownloadArgs) -> Result<u8, LauncherError> {
    logging::init(&config::log_settings(args.json_output, &variable));
    let id = args.model_id.parse().map_err(ArgumentError::ModelId)?;
    let revision = args.revision.as_deref().unwrap_or("main").parse().map_err(ArgumentError::Revision)?;
    let hub = Hub::new(HubSettings::from_env(&variable, args.huggingface_hub_cache)?)?;
    println!("{}", hub.snapshot(&id, &revision)?.folder.display());
    Ok(0)
}
