//! Settings of the sampler that each have an effect of their own.

use weirgate_kernels::{FilterOrder, FrequencyPenalty, Mirostat, SampleParams};

/// A draw with neutral settings.
pub fn random() -> SampleParams {
    SampleParams { seed: Some(0x5EED), ..SampleParams::default() }
}

pub fn distribution_cases() -> Vec<(&'static str, SampleParams)> {
    let count = FrequencyPenalty::Count(0.7);
    let relative = FrequencyPenalty::Relative(9.0);
    let watermark = Some((0.25, 2.0));
    let bias = vec![(3, 4.0), (17, -100.0), (40, 1.5)];
    vec![
        ("plain", random()),
        ("temperature 0.7", SampleParams { temperature: 0.7, ..random() }),
        ("temperature 1.8", SampleParams { temperature: 1.8, ..random() }),
        ("top-k", SampleParams { top_k: 8, ..random() }),
        ("top-p", SampleParams { top_p: 0.8, ..random() }),
        ("typical", SampleParams { typical_p: 0.6, ..random() }),
        ("min-p", SampleParams { min_p: 0.08, ..random() }),
        ("repetition", SampleParams { repetition_penalty: 1.4, ..random() }),
        ("frequency, count", SampleParams { frequency_penalty: count, ..random() }),
        ("frequency, relative", SampleParams { frequency_penalty: relative, ..random() }),
        ("presence", SampleParams { presence_penalty: 1.1, ..random() }),
        ("bias", SampleParams { logit_bias: bias.clone(), ..random() }),
        ("watermark", SampleParams { watermark, ..random() }),
        ("temperature, top-k", SampleParams { temperature: 1.5, top_k: 20, ..random() }),
        ("temperature, top-p", SampleParams { temperature: 1.5, top_p: 0.9, ..random() }),
        ("top-k, top-p", SampleParams { top_k: 12, top_p: 0.7, ..random() }),
        ("top-k, typical", SampleParams { top_k: 25, typical_p: 0.5, ..random() }),
        ("top-p, min-p", SampleParams { top_p: 0.95, min_p: 0.03, ..random() }),
        ("typical, min-p", SampleParams { typical_p: 0.7, min_p: 0.2, temperature: 1.3, ..random() }),
        ("repetition, top-p", SampleParams { repetition_penalty: 1.3, top_p: 0.85, ..random() }),
        ("count, presence", SampleParams { frequency_penalty: count, presence_penalty: -0.6, ..random() }),
        ("relative, top-k", SampleParams { frequency_penalty: relative, top_k: 15, ..random() }),
        ("watermark, top-p", SampleParams { watermark, top_p: 0.8, temperature: 0.9, ..random() }),
        (
            "bias, repetition, min-p",
            SampleParams { logit_bias: bias.clone(), repetition_penalty: 1.2, min_p: 0.05, ..random() },
        ),
        ("tail-free", SampleParams { tfs_z: 0.5, ..random() }),
        ("top-k, tail-free", SampleParams { top_k: 30, tfs_z: 0.9, temperature: 1.4, ..random() }),
        ("window of 4", SampleParams { penalty_window: Some(4), repetition_penalty: 1.6, ..random() }),
        ("no window", SampleParams { penalty_window: Some(0), repetition_penalty: 1.6, ..random() }),
        (
            "window, all penalties",
            SampleParams {
                penalty_window: Some(64),
                repetition_penalty: 1.2,
                frequency_penalty: count,
                presence_penalty: 0.5,
                ..random()
            },
        ),
        (
            "exempt token",
            SampleParams {
                penalty_exempt: Some(9),
                penalty_window: Some(64),
                repetition_penalty: 1.9,
                ..random()
            },
        ),
        ("Mirostat 1", SampleParams { mirostat: Some(Mirostat::V1), temperature: 1.3, ..random() }),
        ("Mirostat 2", SampleParams { mirostat: Some(Mirostat::V2), temperature: 1.3, ..random() }),
        (
            "Ollama's defaults",
            SampleParams {
                order: FilterOrder::TemperatureLast,
                temperature: 0.8,
                top_k: 40,
                top_p: 0.9,
                penalty_window: Some(64),
                repetition_penalty: 1.1,
                ..random()
            },
        ),
        (
            "temperature last, every filter",
            SampleParams {
                order: FilterOrder::TemperatureLast,
                temperature: 1.7,
                top_k: 45,
                tfs_z: 0.97,
                typical_p: 0.95,
                top_p: 0.9,
                min_p: 0.02,
                ..random()
            },
        ),
        (
            "temperature last, alone",
            SampleParams { order: FilterOrder::TemperatureLast, temperature: 1.7, ..random() },
        ),
        (
            "everything",
            SampleParams {
                temperature: 1.6,
                top_k: 40,
                top_p: 0.97,
                typical_p: 0.95,
                min_p: 0.01,
                repetition_penalty: 1.15,
                frequency_penalty: count,
                presence_penalty: 0.3,
                logit_bias: bias,
                watermark,
                ..random()
            },
        ),
    ]
}
