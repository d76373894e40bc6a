//! The settings in force, as a table for people.

use std::fmt::{Display, Write};

use weirgate_router::{DeviceSetting, EngineSettings, KvCacheDtype, Limits, Quantize, RouterConfig};

/// One setting a line, under the names of the flags. Secrets are not shown.
pub fn settings_table(config: &RouterConfig) -> String {
    let Limits {
        max_concurrent_requests,
        max_best_of,
        max_stop_sequences,
        max_top_n_tokens,
        max_client_batch_size,
        payload_limit,
        max_request_seconds,
        max_input_tokens,
        max_total_tokens,
        // Of models that are loaded on demand.
        max_context: _,
    } = &config.limits;
    let EngineSettings {
        device,
        cuda_memory_fraction,
        cuda_graphs,
        deterministic,
        // Of interest only where kernels are compiled at start.
        kernel_cache: _,
        own_gemm,
        kv_cache_dtype,
        threads,
        max_batch_prefill_tokens,
        max_batch_total_tokens,
        max_batch_size,
        waiting_served_ratio,
        max_waiting_tokens,
        prefix_caching,
        speculate,
        rope_scaling,
        quantize,
        num_shard,
    } = &config.engine;
    let rows = [
        ("model_id", config.model_id.clone()),
        ("listen", config.listen.to_string()),
        ("profile", format!("{:?}", config.profile).to_lowercase()),
        ("max_concurrent_requests", max_concurrent_requests.to_string()),
        ("max_input_tokens", or(max_input_tokens, "max_total_tokens - 1")),
        ("max_total_tokens", or(max_total_tokens, "what model and KV cache allow")),
        ("default_max_new_tokens", or(&config.default_max_new_tokens, "none")),
        ("max_batch_prefill_tokens", or(max_batch_prefill_tokens, "chosen for the device")),
        ("max_batch_total_tokens", or(max_batch_total_tokens, "from free memory")),
        ("max_batch_size", or(max_batch_size, "chosen for the device")),
        ("waiting_served_ratio", waiting_served_ratio.to_string()),
        ("max_waiting_tokens", max_waiting_tokens.to_string()),
        ("device", device_name(*device)),
        ("cuda_memory_fraction", cuda_memory_fraction.to_string()),
        ("cuda_gemm", if *own_gemm { "own" } else { "auto" }.to_owned()),
        ("kv_cache_dtype", or(&kv_cache_dtype.map(KvCacheDtype::name), "floats that fit the weights")),
        ("cuda_graphs", sizes(cuda_graphs.as_deref())),
        ("deterministic", deterministic.to_string()),
        ("threads", or(threads, "every usable processor")),
        ("prefix_caching", prefix_caching.to_string()),
        ("speculate", speculate.to_string()),
        ("rope_scaling", rope_scaling.map_or_else(|| "the model's".to_owned(), |s| format!("{s:?}"))),
        ("quantize", or(&quantize.map(Quantize::name), "the weights as they are stored")),
        ("num_shard", num_shard.to_string()),
        ("validation_workers", config.validation_workers.to_string()),
        ("max_best_of", max_best_of.to_string()),
        ("max_stop_sequences", max_stop_sequences.to_string()),
        ("max_top_n_tokens", max_top_n_tokens.to_string()),
        ("max_client_batch_size", max_client_batch_size.to_string()),
        ("payload_limit", payload_limit.to_string()),
        ("max_request_seconds", max_request_seconds.to_string()),
        ("cors_allow_origin", origins(&config.cors_allow_origin)),
        ("api_key", if config.api_keys.is_empty() { "none" } else { "set" }.to_owned()),
        ("admin_api_key", if config.admin_api_keys.is_empty() { "none" } else { "set" }.to_owned()),
        ("guard_info", config.guard_info.to_string()),
        (
            "tokenizer_config_path",
            or(&config.tokenizer_config_path.as_ref().map(|p| p.display()), "the model's"),
        ),
        ("disable_grammar_support", config.disable_grammar_support.to_string()),
        ("grammar_backend", config.grammar_backend.name().to_owned()),
        ("grammar_whitespace", config.grammar_whitespace.name().to_owned()),
        ("enable_prefill_logprobs", config.enable_prefill_logprobs.to_string()),
        ("otlp_endpoint", or(&config.traces.as_ref().map(|traces| &traces.endpoint), "none")),
        ("watermark_gamma", config.watermark_gamma.to_string()),
        ("watermark_delta", config.watermark_delta.to_string()),
        ("graceful_termination_timeout", config.graceful_termination_seconds.to_string()),
        ("watchdog_timeout", config.watchdog_seconds.to_string()),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut table = String::from("Settings:");
    for (name, value) in rows {
        let _ = write!(table, "\n  {name:width$}  {value}");
    }
    table
}

fn device_name(device: DeviceSetting) -> String {
    match device {
        DeviceSetting::Auto => "auto".to_owned(),
        DeviceSetting::Cpu => "cpu".to_owned(),
        DeviceSetting::Cuda(number) => format!("cuda:{number}"),
    }
}

fn or(value: &Option<impl Display>, otherwise: &str) -> String {
    value.as_ref().map_or_else(|| otherwise.to_owned(), ToString::to_string)
}

fn sizes(sizes: Option<&[usize]>) -> String {
    match sizes {
        None => "chosen for the device".to_owned(),
        Some([]) => "none".to_owned(),
        Some(sizes) => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn origins(origins: &[String]) -> String {
    if origins.is_empty() { "any".to_owned() } else { origins.join(", ") }
}
