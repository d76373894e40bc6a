//! The values that flags take beside numbers and strings.

use std::str::FromStr;

use clap::ValueEnum;

/// Reads a boolean the ways people write one in an environment file, in any case. Empty is false.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("expected true, false, 1, 0, yes, no, on or off".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantization {
    Awq,
    CompressedTensors,
    Eetq,
    Exl2,
    Gptq,
    Marlin,
    Bitsandbytes,
    BitsandbytesNf4,
    BitsandbytesFp4,
    Fp8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    Float16,
    #[value(name = "bfloat16")]
    BFloat16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheDtype {
    #[value(name = "fp8_e4m3fn")]
    Fp8E4m3fn,
    #[value(name = "fp8_e5m2")]
    Fp8E5m2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RopeScaling {
    Linear,
    Dynamic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UsageStats {
    On,
    Off,
    NoStack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Auto,
    Cpu,
}

/// A number of tokens, or `none` for no limit but the total one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimit(pub Option<u32>);

impl FromStr for TokenLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(0) | Err(_) => Err("expected a number of tokens of at least 1, or `none`".to_owned()),
            Ok(tokens) => Ok(Self(Some(tokens))),
        }
    }
}
