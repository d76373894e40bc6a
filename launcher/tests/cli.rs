//! The program as people start it: what it says and how it exits. None of these gets as far as serving.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `weirgate` with nothing in its environment but `variables`.
fn weirgate(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weirgate"))
        .env_clear()
        .env("HOME", "/nowhere")
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder that is no model: the settings are printed, then the router refuses it.
fn with_settings(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut all = vec!["--model-id", folder.path().to_str().unwrap()];
    if !variables.iter().any(|(name, _)| *name == "PORT") {
        all.extend(["--port", "0"]);
    }
    all.extend(arguments);
    let output = weirgate(variables, &all);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    output
}

/// The value of a row of the printed settings.
fn setting<'o>(stdout: &'o str, name: &str) -> &'o str {
    let row = stdout.lines().find_map(|line| line.strip_prefix("  ")?.strip_prefix(name)?.strip_prefix(' '));
    row.unwrap_or_else(|| panic!("no {name} in {stdout}")).trim()
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn defaults_are_those_of_the_reference() {
    let stdout = text(&with_settings(&[], &[]).stdout);
    for (name, value) in [
        ("listen", "0.0.0.0:0"),
        ("max_concurrent_requests", "128"),
        ("max_best_of", "2"),
        ("max_stop_sequences", "4"),
        ("max_top_n_tokens", "5"),
        ("max_client_batch_size", "4"),
        ("payload_limit", "2000000"),
        ("validation_workers", "2"),
        ("max_input_tokens", "max_total_tokens - 1"),
        ("cors_allow_origin", "any"),
        ("api_key", "none"),
        ("disable_grammar_support", "false"),
        ("grammar_backend", "auto"),
        ("grammar_whitespace", "compact"),
        ("enable_prefill_logprobs", "false"),
        ("graceful_termination_timeout", "90"),
        ("watchdog_timeout", "60"),
        ("default_max_new_tokens", "100"),
        ("watermark_gamma", "0.5"),
        ("watermark_delta", "2"),
        ("prefix_caching", "true"),
        ("speculate", "0"),
        ("deterministic", "false"),
        ("cuda_graphs", "chosen for the device"),
        ("rope_scaling", "the model's"),
    ] {
        assert_eq!(setting(&stdout, name), value, "{name}");
    }
}

#[test]
fn every_variable_arrives() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let rows = [
        ("MAX_CONCURRENT_REQUESTS", "64", "max_concurrent_requests", "64"),
        ("MAX_BEST_OF", "3", "max_best_of", "3"),
        ("MAX_STOP_SEQUENCES", "5", "max_stop_sequences", "5"),
        ("MAX_TOP_N_TOKENS", "6", "max_top_n_tokens", "6"),
        ("MAX_INPUT_TOKENS", "1000", "max_input_tokens", "1000"),
        ("MAX_TOTAL_TOKENS", "2000", "max_total_tokens", "2000"),
        ("MAX_BATCH_PREFILL_TOKENS", "512", "max_batch_prefill_tokens", "512"),
        ("MAX_BATCH_TOTAL_TOKENS", "4000", "max_batch_total_tokens", "4000"),
        ("MAX_BATCH_SIZE", "9", "max_batch_size", "9"),
        ("MAX_CLIENT_BATCH_SIZE", "7", "max_client_batch_size", "7"),
        ("PAYLOAD_LIMIT", "1234", "payload_limit", "1234"),
        ("VALIDATION_WORKERS", "1", "validation_workers", "1"),
        ("HOSTNAME", "127.0.0.1", "listen", &listen),
        ("PORT", &port, "listen", &listen),
        ("ROPE_FACTOR", "2", "rope_scaling", "Linear { factor: 2.0 }"),
        (
            "CORS_ALLOW_ORIGIN",
            "https://a.example,https://b.example",
            "cors_allow_origin",
            "https://a.example, https://b.example",
        ),
        ("API_KEY", "sesame", "api_key", "set"),
        ("WATERMARK_GAMMA", "0.25", "watermark_gamma", "0.25"),
        ("WATERMARK_DELTA", "1.5", "watermark_delta", "1.5"),
        ("TOKENIZER_CONFIG_PATH", "/t.json", "tokenizer_config_path", "/t.json"),
        ("DISABLE_GRAMMAR_SUPPORT", "1", "disable_grammar_support", "true"),
        ("GRAMMAR_BACKEND", "outlines", "grammar_backend", "outlines"),
        ("GRAMMAR_WHITESPACE", "flexible", "grammar_whitespace", "flexible"),
        ("ENABLE_PREFILL_LOGPROBS", "on", "enable_prefill_logprobs", "true"),
        ("GRACEFUL_TERMINATION_TIMEOUT", "25", "graceful_termination_timeout", "25"),
        ("THREADS", "2", "threads", "2"),
        ("WATCHDOG_TIMEOUT", "5", "watchdog_timeout", "5"),
        ("DEFAULT_MAX_NEW_TOKENS", "none", "default_max_new_tokens", "none"),
        ("PREFIX_CACHING", "0", "prefix_caching", "false"),
        ("WAITING_SERVED_RATIO", "1.2", "waiting_served_ratio", "1.2"),
        ("MAX_WAITING_TOKENS", "0", "max_waiting_tokens", "0"),
        ("CUDA_GEMM", "own", "cuda_gemm", "own"),
        ("KV_CACHE_DTYPE", "fp8_e5m2", "kv_cache_dtype", "fp8_e5m2"),
        ("DETERMINISTIC", "1", "deterministic", "true"),
        ("CUDA_GRAPHS", "1,2,4", "cuda_graphs", "1, 2, 4"),
    ];
    let variables: Vec<(&str, &str)> = rows.iter().map(|row| (row.0, row.1)).collect();
    let stdout = text(&with_settings(&variables, &[]).stdout);
    for (variable, _, name, value) in rows {
        assert_eq!(setting(&stdout, name), value, "{variable}");
    }
    assert!(!stdout.contains("sesame"), "{stdout}");

    // A flag goes before its variable, and an empty variable is none.
    let stdout =
        text(&with_settings(&[("MAX_BEST_OF", "3"), ("MAX_BATCH_SIZE", "")], &["--max-best-of", "4"]).stdout);
    assert_eq!(setting(&stdout, "max_best_of"), "4");
    assert_eq!(setting(&stdout, "max_batch_size"), "chosen for the device");
}

#[test]
fn boolean_variables_take_every_spelling() {
    for (value, on) in [
        ("true", "true"),
        ("TRUE", "true"),
        ("1", "true"),
        ("Yes", "true"),
        ("on", "true"),
        ("false", "false"),
        ("False", "false"),
        ("0", "false"),
        ("NO", "false"),
        ("off", "false"),
        ("", "false"),
    ] {
        let output = with_settings(&[("DISABLE_GRAMMAR_SUPPORT", value), ("SHARDED", "0")], &[]);
        assert_eq!(setting(&text(&output.stdout), "disable_grammar_support"), on, "{value:?}");
    }
    let output = weirgate(&[("JSON_OUTPUT", "maybe")], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("maybe"), "{output:?}");
}

#[test]
fn sharded_takes_all_devices_that_are_listed() {
    for (variables, device, expected) in [
        (&[("CUDA_VISIBLE_DEVICES", "0,1,2")][..], "auto", "3"),
        (&[("CUDA_VISIBLE_DEVICES", "4,5,6,7"), ("NVIDIA_VISIBLE_DEVICES", "all")], "auto", "4"),
        (&[("NVIDIA_VISIBLE_DEVICES", "0, 1, 2")], "cuda:1", "2"),
    ] {
        let output = with_settings(variables, &["--sharded", "true", "--device", device]);
        assert_eq!(setting(&text(&output.stdout), "num_shard"), expected, "{variables:?}");
    }
    // `all` says nothing of how many there are, and here is no driver to ask.
    let output = weirgate(&[("NVIDIA_VISIBLE_DEVICES", "all")], &["--sharded", "true"]);
    assert!(text(&output.stderr).contains("only found 0 CUDA devices"), "{output:?}");
}

#[test]
fn start_up_checks_exit_1_with_the_message_of_the_reference() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["--sharded", "true", "--num-shard", "1"],
            "Invalid argument: `sharded` is true but `num_shard` <= 1",
        ),
        (&["--sharded", "true"], "not enough cuda devices: `sharded` is true but only found 0 CUDA devices"),
        (&["--num-shard", "0"], "Invalid argument: `num_shard` cannot be < 1"),
        (
            &["--num-shard", "2", "--quantize", "exl2"],
            "Invalid argument: Sharding is currently not supported with `exl2` quantization",
        ),
        (
            &["--max-input-tokens", "10", "--max-input-length", "11"],
            "Invalid argument: Both `max_input_tokens` (10) and `max_input_length` (11) are set. Please define only `max_input_tokens` as `max_input_length is deprecated for naming consistency.",
        ),
        (
            &["--max-input-tokens", "10", "--max-total-tokens", "10"],
            "Invalid argument: `max_input_tokens must be < `max_total_tokens`",
        ),
        (
            &["--max-input-length", "11", "--max-total-tokens", "10"],
            "Invalid argument: `max_input_tokens must be < `max_total_tokens`",
        ),
        (&["--validation-workers", "0"], "Invalid argument: `validation_workers` must be > 0"),
        (
            &["--max-total-tokens", "11", "--max-batch-total-tokens", "10"],
            "Invalid argument: `max_total_tokens` must be <= `max_batch_total_tokens`. Given: 11 and 10",
        ),
        (
            &["--max-batch-prefill-tokens", "11", "--max-batch-total-tokens", "10"],
            "Invalid argument: `max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 11 and 10",
        ),
        (&["--max-batch-size", "0"], "Invalid argument: `max_batch_size` must be > 0"),
        (&["--max-concurrent-requests", "0"], "Invalid argument: `max_concurrent_requests` must be > 0"),
        (&["--ngrok"], "Invalid argument: `ngrok-authtoken` must be set when using ngrok tunneling"),
        (
            &["--ngrok", "--ngrok-authtoken", "t"],
            "Invalid argument: `ngrok-edge` must be set when using ngrok tunneling",
        ),
        (&["--lora-adapters", "a@b@c"], "Invalid argument: Invalid LoRA adapter format: a@b@c"),
        (
            &["--lora-adapters", "a=./nowhere"],
            "Invalid argument: `lora_adapters`: ./nowhere is neither a folder nor a .gguf file",
        ),
        (
            &["--quantize", "eetq"],
            "Invalid argument: `quantize` is `eetq`, which is not supported; `q8_0` makes weights as small",
        ),
        (
            &["--quantize", "bitsandbytes-nf4"],
            "Invalid argument: `quantize` is `bitsandbytes-nf4`, which is not supported; `q4_k_m` makes weights as small",
        ),
        (
            &["--quantize", "exl2"],
            "Invalid argument: `quantize` is `exl2`, which is not supported; `q4_k_m` makes weights as small",
        ),
        (&["--rope-factor", "0"], "Invalid argument: `rope_factor` must be > 0. Given: 0"),
        (
            &["--waiting-served-ratio", "nan"],
            "Invalid argument: `waiting_served_ratio` must be >= 0. Given: NaN",
        ),
        (&["--watermark-gamma", "1"], "Invalid argument: `watermark_gamma` must be > 0 and < 1. Given: 1"),
        (&["--model-id", "a/b/c"], "Invalid argument: `model_id`: \"a/b/c\" is not a model id"),
        (
            &["--model-id", "org/name", "--revision", "../x"],
            "Invalid argument: `revision`: \"../x\" is not a revision",
        ),
    ];
    for (arguments, message) in cases {
        let output = weirgate(&[], arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with(&format!("Error: {message}")), "{arguments:?}: {stderr}");
    }
}

#[test]
fn models_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(folder.path().join("some.safetensors"), "x").unwrap();
    let cases = [
        (path("missing"), "looks like a local path, but nothing is there"),
        ("./missing".to_owned(), "looks like a local path, but nothing is there"),
        ("m.gguf".to_owned(), "looks like a local path, but nothing is there"),
        (path("some.safetensors"), "is a file, and not a .gguf one; pass the folder"),
    ];
    for (model, message) in cases {
        let output = weirgate(&[], &["--model-id", &model]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&model) && stderr.contains(message), "{stderr}");
    }
    let output = weirgate(&[], &["--weights-cache-override", folder.path().to_str().unwrap()]);
    assert!(text(&output.stderr).contains("no config.json in it"), "{output:?}");
}

#[test]
fn the_router_s_refusal_of_a_model_ends_the_launcher() {
    let output = with_settings(&[], &[]);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("config.json"), "{stderr}");
    let stdout = text(&output.stdout);
    assert!(stdout.contains("Router exited with status 1 before it was ready"), "{stdout}");
    assert!(!stdout.contains("restarting in"), "{stdout}");
}

/// The demo model, which is there without a network.
#[test]
fn what_takes_a_gpu_is_refused_by_name_on_the_cpu() {
    for (value, device) in [("fp8_e4m3fn", "cpu"), ("fp8_e5m2", "cpu")] {
        let arguments = ["--port", "0", "--device", device, "--kv-cache-dtype", value];
        let output = weirgate(&[], &arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(said.contains(&format!("`kv_cache_dtype` is `{value}`, which takes a GPU")), "{said}");
    }
}

#[test]
fn a_hub_id_without_a_network_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let home = cache.path().to_str().unwrap();
    for command in [&["--model-id", "org/name", "--port", "0"][..], &["download", "org/name"]] {
        let output = weirgate(&[("HF_HOME", home), ("HF_HUB_OFFLINE", "1")], command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("org/name") && stderr.contains("HF_HUB_OFFLINE") && stderr.contains(home),
            "{stderr}"
        );
        let output = weirgate(&[("HF_HOME", home), ("HF_ENDPOINT", "http://127.0.0.1:9")], command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("cannot reach http://127.0.0.1:9/"), "{output:?}");
    }
}

#[test]
fn a_cached_model_is_found_by_download() {
    let cache = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let model = cache.path().join("models--org--name");
    let snapshot = model.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), commit).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::write(snapshot.join(file), "x").unwrap();
    }
    let arguments = ["download", "org/name", "--huggingface-hub-cache", cache.path().to_str().unwrap()];
    let output = weirgate(&[("HF_HUB_OFFLINE", "1")], &arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(Path::new(text(&output.stdout).trim()), snapshot);
}

#[test]
fn a_hostname_that_is_no_address_is_replaced_with_a_warning() {
    let stdout = text(&with_settings(&[("HOSTNAME", "3f2a9c0d1e5b")], &[]).stdout);
    assert!(stdout.contains("Invalid hostname \"3f2a9c0d1e5b\", defaulting to 0.0.0.0"), "{stdout}");
    assert_eq!(setting(&stdout, "listen"), "0.0.0.0:0");
    let stdout = text(&with_settings(&[("HOSTNAME", "::1")], &[]).stdout);
    assert_eq!(setting(&stdout, "listen"), "[::1]:0");
}

#[test]
fn flags_of_python_shards_cost_one_warning() {
    let variables =
        [("MASTER_ADDR", "10.0.0.1"), ("TRUST_REMOTE_CODE", "true"), ("DISABLE_CUSTOM_KERNELS", "false")];
    let stdout = text(&with_settings(&variables, &["--shard-uds-path", "/tmp/s"]).stdout);
    let warnings: Vec<&str> = stdout.lines().filter(|line| line.contains("without effect")).collect();
    assert_eq!(warnings.len(), 1, "{stdout}");
    for flag in ["--master-addr", "--trust-remote-code", "--shard-uds-path"] {
        assert!(warnings[0].contains(flag), "{flag}: {}", warnings[0]);
    }
    assert!(!warnings[0].contains("--disable-custom-kernels"), "{}", warnings[0]);
    let stdout = text(&with_settings(&[], &["--speculate", "2"]).stdout);
    assert!(!stdout.contains("without effect"), "{stdout}");
    assert_eq!(setting(&stdout, "speculate"), "2");
    let stdout = text(&with_settings(&[], &["--cuda-graphs", "0", "--deterministic"]).stdout);
    assert_eq!((setting(&stdout, "cuda_graphs"), setting(&stdout, "deterministic")), ("none", "true"));
}

#[test]
fn a_taken_port_is_said_before_anything_is_loaded() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = weirgate(&[("HOSTNAME", "127.0.0.1"), ("PORT", &port)], &[]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")) && stderr.contains("--port"),
        "{stderr}"
    );
}

#[test]
fn json_output_is_json_line_by_line() {
    let stdout = text(&with_settings(&[("JSON_OUTPUT", "true"), ("HOSTNAME", "x")], &["--env"]).stdout);
    let lines: Vec<serde_json::Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let message = |i: usize| lines[i]["fields"]["message"].as_str().unwrap();
    assert!(message(0).starts_with("Runtime environment:"), "{stdout}");
    assert!(message(1).contains("Invalid hostname") && lines[1]["level"] == "WARN", "{stdout}");
}

#[test]
fn log_level_applies_to_this_program() {
    let quiet = with_settings(&[("LOG_LEVEL", "error"), ("HOSTNAME", "x")], &[]);
    let stdout = text(&quiet.stdout);
    assert!(!stdout.contains("Settings:") && !stdout.contains("Invalid hostname"), "{stdout}");
    let warn = text(&with_settings(&[("LOG_LEVEL", "warn"), ("HOSTNAME", "x")], &[]).stdout);
    assert!(!warn.contains("Settings:") && warn.contains("Invalid hostname"), "{warn}");
    let bad = text(&with_settings(&[("LOG_LEVEL", "weirgate=nonsense=x")], &[]).stdout);
    assert!(bad.contains("LOG_LEVEL") && bad.contains("Settings:"), "{bad}");
    let coloured = text(&with_settings(&[("LOG_COLORIZE", "1")], &[]).stdout);
    assert!(coloured.contains("\u{1b}[") && !warn.contains("\u{1b}["), "{coloured:?}");
}

#[test]
fn env_help_and_version() {
    let output = weirgate(&[], &["env"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains(&format!("Weirgate version: {}", env!("CARGO_PKG_VERSION"))));
    let output = weirgate(&[("API_KEY", "sesame"), ("NGROK_AUTHTOKEN", "sesame")], &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    assert!(help.contains("weirgate download") && !help.contains("sesame"), "{help}");
    let output = weirgate(&[], &["--version"]);
    assert_eq!(text(&output.stdout), format!("weirgate {}\n", env!("CARGO_PKG_VERSION")));
    let output = weirgate(&[], &["--no-such-flag"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_router_command_is_not_for_people() {
    let output = weirgate(&[], &["router"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`weirgate` starts this command"), "{output:?}");
}
