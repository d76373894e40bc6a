use std::collections::BTreeSet;

use clap::ValueEnum;
use weirgate_router::DeviceSetting;

use super::*;

/// One row of text-generation-inference's table of launcher flags.
struct Row {
    flag: &'static str,
    short: Option<char>,
    variable: Option<&'static str>,
    default: Option<&'static str>,
    /// A value to give it; `None` for a flag without one.
    value: Option<&'static str>,
}

const fn row(
    flag: &'static str,
    variable: &'static str,
    default: Option<&'static str>,
    value: &'static str,
) -> Row {
    Row { flag, short: None, variable: Some(variable), default, value: Some(value) }
}

const fn switch(flag: &'static str, variable: &'static str) -> Row {
    Row { flag, short: None, variable: Some(variable), default: None, value: None }
}

const TABLE: &[Row] = &[
    row("model-id", "MODEL_ID", None, "org/name"),
    row("revision", "REVISION", None, "refs/pr/1"),
    row("validation-workers", "VALIDATION_WORKERS", Some("2"), "3"),
    row("sharded", "SHARDED", None, "false"),
    row("num-shard", "NUM_SHARD", None, "1"),
    row("quantize", "QUANTIZE", None, "bitsandbytes-nf4"),
    row("speculate", "SPECULATE", None, "2"),
    row("dtype", "DTYPE", None, "bfloat16"),
    row("kv-cache-dtype", "KV_CACHE_DTYPE", None, "fp8_e4m3fn"),
    switch("trust-remote-code", "TRUST_REMOTE_CODE"),
    row("max-concurrent-requests", "MAX_CONCURRENT_REQUESTS", Some("128"), "64"),
    row("max-best-of", "MAX_BEST_OF", Some("2"), "4"),
    row("max-stop-sequences", "MAX_STOP_SEQUENCES", Some("4"), "8"),
    row("max-top-n-tokens", "MAX_TOP_N_TOKENS", Some("5"), "10"),
    row("max-input-tokens", "MAX_INPUT_TOKENS", None, "1000"),
    row("max-input-length", "MAX_INPUT_LENGTH", None, "1000"),
    row("max-total-tokens", "MAX_TOTAL_TOKENS", None, "2000"),
    row("waiting-served-ratio", "WAITING_SERVED_RATIO", Some("0.3"), "1.2"),
    row("max-batch-prefill-tokens", "MAX_BATCH_PREFILL_TOKENS", None, "4096"),
    row("max-batch-total-tokens", "MAX_BATCH_TOTAL_TOKENS", None, "16000"),
    row("max-waiting-tokens", "MAX_WAITING_TOKENS", Some("20"), "10"),
    row("max-batch-size", "MAX_BATCH_SIZE", None, "16"),
    row("cuda-graphs", "CUDA_GRAPHS", None, "1,2,4"),
    row("hostname", "HOSTNAME", Some("0.0.0.0"), "127.0.0.1"),
    Row { short: Some('p'), ..row("port", "PORT", Some("3000"), "8080") },
    row("prometheus-port", "PROMETHEUS_PORT", Some("9000"), "9001"),
    row("shard-uds-path", "SHARD_UDS_PATH", Some("/tmp/text-generation-server"), "/tmp/x"),
    row("master-addr", "MASTER_ADDR", Some("localhost"), "host"),
    row("master-port", "MASTER_PORT", Some("29500"), "29501"),
    row("huggingface-hub-cache", "HUGGINGFACE_HUB_CACHE", None, "/data"),
    row("weights-cache-override", "WEIGHTS_CACHE_OVERRIDE", None, "/weights"),
    switch("disable-custom-kernels", "DISABLE_CUSTOM_KERNELS"),
    row("cuda-memory-fraction", "CUDA_MEMORY_FRACTION", Some("1"), "0.5"),
    row("rope-scaling", "ROPE_SCALING", None, "dynamic"),
    row("rope-factor", "ROPE_FACTOR", None, "2.0"),
    switch("json-output", "JSON_OUTPUT"),
    row("otlp-endpoint", "OTLP_ENDPOINT", None, "http://collector:4317"),
    row("otlp-service-name", "OTLP_SERVICE_NAME", Some("text-generation-inference.router"), "mine"),
    row("cors-allow-origin", "CORS_ALLOW_ORIGIN", None, "https://a.example"),
    row("api-key", "API_KEY", None, "secret"),
    row("watermark-gamma", "WATERMARK_GAMMA", None, "0.25"),
    row("watermark-delta", "WATERMARK_DELTA", None, "1.5"),
    switch("ngrok", "NGROK"),
    row("ngrok-authtoken", "NGROK_AUTHTOKEN", None, "token"),
    row("ngrok-edge", "NGROK_EDGE", None, "edge"),
    row("tokenizer-config-path", "TOKENIZER_CONFIG_PATH", None, "/tokenizer_config.json"),
    switch("disable-grammar-support", "DISABLE_GRAMMAR_SUPPORT"),
    Row { flag: "env", short: Some('e'), variable: None, default: None, value: None },
    row("max-client-batch-size", "MAX_CLIENT_BATCH_SIZE", Some("4"), "8"),
    row("lora-adapters", "LORA_ADAPTERS", None, "a,b=/path@main"),
    row("usage-stats", "USAGE_STATS", Some("on"), "no-stack"),
    row("payload-limit", "PAYLOAD_LIMIT", Some("2000000"), "1000"),
    switch("enable-prefill-logprobs", "ENABLE_PREFILL_LOGPROBS"),
    Row {
        short: Some('g'),
        ..row("graceful-termination-timeout", "GRACEFUL_TERMINATION_TIMEOUT", Some("90"), "25")
    },
];

/// Our own, in the same form.
const OWN: &[Row] = &[
    row("api-key-file", "API_KEY_FILE", None, "/keys"),
    row("admin-api-key", "ADMIN_API_KEY", None, "secret"),
    row("admin-api-key-file", "ADMIN_API_KEY_FILE", None, "/keys"),
    switch("guard-info", "GUARD_INFO"),
    row("max-request-seconds", "MAX_REQUEST_SECONDS", Some("0"), "600"),
    row("profile", "PROFILE", Some("openai"), "tgi"),
    row("grammar-backend", "GRAMMAR_BACKEND", Some("auto"), "outlines"),
    row("grammar-whitespace", "GRAMMAR_WHITESPACE", Some("compact"), "flexible"),
    switch("deterministic", "DETERMINISTIC"),
    row("device", "DEVICE", Some("auto"), "cpu"),
    row("threads", "THREADS", None, "2"),
    row("watchdog-timeout", "WATCHDOG_TIMEOUT", Some("60"), "0"),
    row("default-max-new-tokens", "DEFAULT_MAX_NEW_TOKENS", Some("100"), "none"),
    row("ollama-host", "OLLAMA_HOST", None, ":11434"),
    row("ollama-origins", "OLLAMA_ORIGINS", None, "http://localhost"),
    row("model-store", "MODEL_STORE", None, "/models"),
    row("ollama-models", "OLLAMA_MODELS", None, "/ollama"),
    row("model-folder", "MODEL_FOLDER", None, "/folders"),
    row("jan-models", "JAN_MODELS", None, "/jan"),
    row("jan-host", "JAN_HOST", None, ":1337"),
    row("keep-alive", "OLLAMA_KEEP_ALIVE", Some("5m"), "-1"),
    row("max-loaded-models", "OLLAMA_MAX_LOADED_MODELS", Some("0"), "3"),
    row("max-queue", "OLLAMA_MAX_QUEUE", Some("512"), "8"),
    row("registry-host", "REGISTRY_HOST", None, "registry.example:5000"),
    row("registry-private-host", "REGISTRY_PRIVATE_HOST", None, "registry.lan"),
    row("registry-auth-file", "REGISTRY_AUTH_FILE", None, "/config.json"),
    row("registry-ca-file", "REGISTRY_CA_FILE", None, "/ca.pem"),
    row("state-dir", "STATE_DIR", None, "/state"),
    row("state-database", "STATE_DATABASE", None, "postgres://user@host/name"),
    row("dataset-store", "DATASET_STORE", None, "s3://bucket/prefix"),
    row("dataset-limit", "DATASET_LIMIT", Some("1048576000"), "1000"),
    row("training-memory", "TRAINING_MEMORY", None, "1000000000"),
    row("management-host", "MANAGEMENT_HOST", None, ":5100"),
    row("modelfile-folder", "MODELFILE_FOLDER", None, "/modelfiles"),
    row("default-num-ctx", "OLLAMA_CONTEXT_LENGTH", None, "4096"),
    row("ollama-version", "OLLAMA_VERSION", Some("0.14.0"), "0.12.11"),
];

fn parse_words(words: &[&str]) -> Result<Typed, clap::Error> {
    parse(std::iter::once("weirgate").chain(words.iter().copied()).map(OsString::from))
}

#[test]
fn every_flag_has_its_variable_its_default_and_its_short_form() {
    let command = LowArgs::command();
    for row in TABLE.iter().chain(OWN) {
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(row.flag))
            .unwrap_or_else(|| panic!("--{} is missing", row.flag));
        assert_eq!(arg.get_short(), row.short, "--{}", row.flag);
        assert_eq!(arg.get_env().map(|name| name.to_str().unwrap()), row.variable, "--{}", row.flag);
        // A switch is off by default, which clap writes out.
        let defaults: Vec<&str> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_str().unwrap())
            .filter(|v| *v != "false")
            .collect();
        assert_eq!(defaults, row.default.into_iter().collect::<Vec<_>>(), "--{}", row.flag);
        let takes_value = arg.get_num_args().is_none_or(|range| range.takes_values());
        assert_eq!(
            takes_value && !matches!(arg.get_action(), ArgAction::SetTrue),
            row.value.is_some(),
            "--{}",
            row.flag
        );
    }
}

#[test]
fn there_are_no_other_flags() {
    let command = LowArgs::command();
    let ours: BTreeSet<&str> =
        command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long()).collect();
    let expected: BTreeSet<&str> = TABLE.iter().chain(OWN).map(|row| row.flag).collect();
    assert_eq!(ours, expected);
}

#[test]
fn every_flag_parses() {
    for row in TABLE.iter().chain(OWN) {
        let long = format!("--{}", row.flag);
        let words: Vec<&str> = std::iter::once(long.as_str()).chain(row.value).collect();
        assert!(parse_words(&words).is_ok(), "{words:?}");
        if let Some(short) = row.short {
            let short = format!("-{short}");
            let words: Vec<&str> = std::iter::once(short.as_str()).chain(row.value).collect();
            assert!(parse_words(&words).is_ok(), "{words:?}");
        }
    }
}

#[test]
fn values_reach_their_fields() {
    let args = parse_words(&[
        "-p",
        "8080",
        "-g",
        "25",
        "-e",
        "--sharded",
        "false",
        "--cuda-graphs",
        "1,2,4",
        "--cors-allow-origin",
        "a",
        "--cors-allow-origin",
        "b",
        "--quantize",
        "compressed-tensors",
        "--kv-cache-dtype",
        "fp8_e5m2",
        "--rope-factor",
        "2.5",
        "--default-max-new-tokens",
        "none",
        "--json-output",
        "--fault-stall-after-steps",
        "7",
        "--fault-step-milliseconds",
        "50",
        "--fault-echo",
    ])
    .unwrap()
    .args;
    assert_eq!((args.port, args.prometheus_port, args.graceful_termination_timeout), (8080, 9000, 25));
    assert!(args.env && args.json_output && !args.ngrok);
    assert_eq!(args.sharded, Some(false));
    assert_eq!(args.cuda_graphs, Some(vec![1, 2, 4]));
    assert_eq!(args.cors_allow_origin, ["a", "b"]);
    assert_eq!(args.quantize, Some(Quantization::CompressedTensors));
    assert_eq!(args.kv_cache_dtype, Some(KvCacheDtype::Fp8E5m2));
    assert_eq!(args.rope_factor, Some(2.5));
    assert_eq!(args.default_max_new_tokens, TokenLimit(None));
    assert_eq!(args.fault_stall_after_steps, Some(7));
    assert!(args.fault_step_milliseconds == 50 && args.fault_echo);
    assert_eq!(parse_words(&[]).unwrap().args.default_max_new_tokens, TokenLimit(Some(100)));
}

#[test]
fn the_programs_name_decides_the_default_profile() {
    let profile = |words: &[&str]| parse(words.iter().map(OsString::from)).unwrap().args.profile;
    for program in ["weirgate", "/usr/bin/weirgate", "text-generation", ""] {
        assert_eq!(profile(&[program]), Profile::OpenAi, "{program:?}");
    }
    for program in ["text-generation-launcher", "/usr/local/bin/text-generation-router"] {
        assert_eq!(profile(&[program]), Profile::Tgi, "{program:?}");
        assert_eq!(profile(&[program, "--profile", "jan"]), Profile::Jan, "{program:?}");
    }
}

#[test]
fn every_quantization_and_dtype_of_the_reference_is_known() {
    for value in ["float16", "bfloat16"] {
        assert!(parse_words(&["--dtype", value]).is_ok(), "{value}");
    }
    assert!(parse_words(&["--dtype", "float32"]).is_err());
    for value in ["0", "-1", "some", ""] {
        assert!(parse_words(&["--default-max-new-tokens", value]).is_err(), "{value:?}");
    }
}

/// TGI's values and ours: what each asks for, or what to use instead.
#[test]
fn every_quantization_is_asked_for_or_refused() {
    let expected = [
        ("awq", Ok("awq")),
        ("compressed-tensors", Ok("compressed-tensors")),
        ("eetq", Err("q8_0")),
        ("exl2", Err("q4_k_m")),
        ("gptq", Ok("gptq")),
        ("marlin", Ok("gptq")),
        ("bitsandbytes", Err("q8_0")),
        ("bitsandbytes-nf4", Err("q4_k_m")),
        ("bitsandbytes-fp4", Err("q4_k_m")),
        ("fp8", Ok("fp8")),
        ("q8_0", Ok("Q8_0")),
        ("q4_0", Ok("Q4_0")),
        ("q4_k_m", Ok("Q4_K_M")),
        ("q5_k_m", Ok("Q5_K_M")),
        ("q6_k", Ok("Q6_K")),
    ];
    assert_eq!(Quantization::value_variants().len(), expected.len());
    for (value, outcome) in expected {
        let quantize = parse_words(&["--quantize", value]).unwrap().args.quantize.unwrap().resolve();
        let name = |instead: Quantization| instead.to_possible_value().unwrap().get_name().to_owned();
        let quantize = quantize.map(|asked| asked.name().to_owned()).map_err(name);
        assert_eq!(quantize, outcome.map(str::to_owned).map_err(str::to_owned), "{value}");
    }
}

/// What the first column of a table in `docs/quantization.md` names, sorted: that of the table whose header begins so.
fn documented(header: &str) -> Vec<String> {
    let text = include_str!("../../../docs/quantization.md");
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with(header))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    let mut named: Vec<String> =
        first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    named.sort();
    named
}

fn names<T: ValueEnum>() -> Vec<String> {
    let mut names: Vec<String> = T::value_variants()
        .iter()
        .map(|value| value.to_possible_value().unwrap().get_name().to_owned())
        .collect();
    names.sort();
    names
}

/// The tables of `docs/quantization.md` have each value of their flags, and no others.
#[test]
fn the_documents_tables_have_every_value() {
    assert_eq!(documented("| value | checkpoint |"), names::<Quantization>());
    assert_eq!(documented("| value of `--kv-cache-dtype` |"), names::<KvCacheDtype>());
}

#[test]
fn flags_without_effect_are_listed_when_given() {
    let flags = |words: &[&str]| -> Vec<String> {
        parse_words(words).unwrap().ineffective.into_iter().map(|given| given.flag).collect()
    };
    assert!(flags(&["--port", "8080", "--max-best-of", "3"]).is_empty());
    assert_eq!(
        flags(&["--master-port", "1", "--trust-remote-code", "--cuda-graphs", "1", "--dtype", "float16"]),
        ["--dtype", "--trust-remote-code", "--master-port"]
    );
}

#[test]
fn booleans_are_read_generously() {
    for text in ["true", "TRUE", "True", "1", "yes", "YES", "on", "On", " true "] {
        assert_eq!(parse_bool(text), Ok(true), "{text:?}");
    }
    for text in ["false", "FALSE", "0", "no", "off", "OFF", ""] {
        assert_eq!(parse_bool(text), Ok(false), "{text:?}");
    }
    for text in ["2", "y", "enable", "truee"] {
        assert!(parse_bool(text).is_err(), "{text:?}");
    }
}

#[test]
fn devices_are_counted_as_the_driver_does() {
    let device = |text: &str| text.parse::<Device>().map(|device| device.0);
    assert_eq!(device("auto"), Ok(DeviceSetting::Auto));
    assert_eq!(device("CPU"), Ok(DeviceSetting::Cpu));
    assert_eq!(device("cuda"), Ok(DeviceSetting::Cuda(0)));
    assert_eq!(device("cuda:3"), Ok(DeviceSetting::Cuda(3)));
    for text in ["gpu", "cuda:", "cuda:-1", "cuda:x", "3", ""] {
        assert!(device(text).is_err(), "{text:?}");
    }
}
